"""The small changes of a module's text that `mutations.py` samples from.

Kinds: comparison, boundary, and-or, not, arithmetic, sign, number, boolean, string (compared), return (None instead), delete (a call, an
augmented assignment, a raise), default, min-max, slice. Not changed: docstrings, annotations, imports, decorators, asserts, f-strings,
the arguments of `raise`, logged messages, `__all__`, code under TYPE_CHECKING.
"""

import ast
import re
from typing import NamedTuple

COMPARES = {
    "<": ("<=", ">="), "<=": ("<", ">"), ">": (">=", "<="), ">=": (">", "<"), "==": ("!=",), "!=": ("==",),
    "in": ("not in",), "not in": ("in",), "is": ("is not",), "is not": ("is",),
}  # fmt: skip
OPERATORS = {
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "//": "/",
    "%": "*",
    "**": "*",
    "&": "|",
    "|": "&",
    "^": "&",
    "<<": ">>",
    ">>": "<<",
}
SYMBOLS: dict[type[ast.AST], str] = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=", ast.In: "in", ast.NotIn: "not in",
    ast.Is: "is", ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.Pow: "**", ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
}  # fmt: skip
CALLS = {"min": "max", "minimum": "maximum", "any": "all", "argmin": "argmax", "floor": "ceil"}
CALLS |= {new: old for old, new in CALLS.items()}
GUARDS = ("strict", "frozen", "non_blocking")  # keywords that change nothing in correct code but its speed
MESSAGES = re.compile(r"_?(print|warn|debug|info|warning|error|log|message)$")


class Mutation(NamedTuple):
    """One change of a module's text: `new` in place of the bytes from `start` to `stop`; the number of lines stays."""

    module: str
    line: int
    start: int
    stop: int
    kind: str
    new: str

    def apply(self, source: bytes) -> bytes:
        lines = source[self.start : self.stop].count(b"\n") - self.new.count("\n")
        return source[: self.start] + self.new.encode() + b"\n" * lines + source[self.stop :]

    def change(self, source: bytes) -> tuple[str, str]:
        """The lines that differ, before and after."""
        both = zip(source.decode().splitlines(), self.apply(source).decode().splitlines(), strict=True)
        before, after = zip(*[pair for pair in both if pair[0] != pair[1]], strict=True)
        return "\n".join(before), "\n".join(after)

    def valid(self, source: bytes) -> bool:
        """Whether the changed module still compiles, to something else."""
        try:
            return ast.dump(ast.parse(self.apply(source))) != ast.dump(ast.parse(source))
        except SyntaxError:
            return False


def called(call: ast.Call) -> str:
    """Name of the function or method that is called, or nothing."""
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))


class Finder(ast.NodeVisitor):
    """Collects every mutation of one module."""

    def __init__(self, module: str, source: bytes) -> None:
        self.module, self.source, self.found = module, source, list[Mutation]()
        self.starts = [0, *(at + 1 for at, byte in enumerate(source) if byte == 10)]
        self.optional = [False]
        self.visit(ast.parse(source))

    def span(self, node: ast.AST) -> tuple[int, int]:
        assert isinstance(node, (ast.expr, ast.stmt))
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.AST) -> str:
        start, stop = self.span(node)
        return self.source[start:stop].decode()

    def add(self, where: ast.AST | tuple[int, int], kind: str, new: str) -> None:
        start, stop = where if isinstance(where, tuple) else self.span(where)
        self.found.append(Mutation(self.module, self.source.count(b"\n", 0, start) + 1, start, stop, kind, new))

    def between(self, left: ast.AST, right: ast.AST, symbol: str, new: str, kind: str) -> None:
        """Replace the operator between two operands."""
        start, stop = self.span(left)[1], self.span(right)[0]
        pattern = r"\b" + symbol.replace(" ", r"\s+") + r"\b" if symbol[0].isalpha() else re.escape(symbol)
        if hit := re.search(pattern.encode(), self.source[start:stop]):
            self.add((start + hit.start(), start + hit.end()), kind, new)

    def condition(self, test: ast.expr) -> None:
        if not isinstance(test, ast.Compare) and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            self.add(test, "not", f"not ({self.text(test)})")

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for default in [*node.args.defaults, *node.args.kw_defaults]:
            if isinstance(default, ast.Constant) and isinstance(default.value, str):
                self.add(default, "default", repr(default.value + "XX"))
            elif default is not None:
                self.visit(default)
        returns = ast.unparse(node.returns).strip("'\"") if node.returns else ""
        self.optional.append(returns.endswith("| None"))
        for statement in node.body:
            self.visit(statement)
        self.optional.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for statement in node.body:
            self.visit(statement)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:
            self.visit(node.value)

    def visit_Assign(self, node: ast.Assign) -> None:
        if not (isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"):
            self.generic_visit(node)

    def skip(self, node: ast.AST) -> None:
        """Nothing below this node is mutated."""

    visit_JoinedStr = visit_Assert = visit_Import = visit_ImportFrom = skip

    def visit_Raise(self, node: ast.Raise) -> None:
        self.add(node, "delete", "pass")

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(call := node.value, ast.Call):
            if MESSAGES.match(called(call)) and call.args and isinstance(call.args[0], (ast.Constant, ast.JoinedStr)):
                return
            self.add(node, "delete", "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.add(node, "delete", "pass")
        symbol = SYMBOLS.get(type(node.op), "@")
        if symbol in OPERATORS:
            self.between(node.target, node.value, f"{symbol}=", f"{OPERATORS[symbol]}=", "arithmetic")
        self.generic_visit(node)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value and self.optional[-1] and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.add(node.value, "return", "None")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in ast.unparse(node.test) or "__name__" in ast.unparse(node.test):
            return
        self.condition(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While | ast.IfExp) -> None:
        self.condition(node.test)
        self.generic_visit(node)

    visit_IfExp = visit_While

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.condition(test)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            symbol = SYMBOLS[type(op)]
            for at, new in enumerate(COMPARES[symbol]):
                self.between(
                    left, right, symbol, new, "boundary" if len(COMPARES[symbol]) > 1 and not at else "comparison"
                )
        for side in (node.left, *node.comparators):
            for part in side.elts if isinstance(side, (ast.Tuple, ast.List, ast.Set)) else [side]:
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    self.add(part, "string", repr(part.value + "XX"))
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.between(left, right, old, new, "and-or")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.add(node, "not" if isinstance(node.op, ast.Not) else "sign", f"({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        symbol = SYMBOLS.get(type(node.op), "@")
        sequence = (
            ast.JoinedStr,
            ast.List,
            ast.Tuple,
            ast.ListComp,
        )  # only numbers: the rest would raise and be killed
        operands = (node.left, node.right)
        texts = any(isinstance(o, ast.Constant) and not isinstance(o.value, (int, float)) for o in operands)
        if symbol in OPERATORS and not texts and not any(isinstance(o, sequence) for o in operands):
            self.between(node.left, node.right, symbol, OPERATORS[symbol], "arithmetic")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.add(node, "boolean", str(not node.value))
        elif isinstance(node.value, (int, float)):
            self.add(node, "number", repr(node.value + 1 if node.value != 1 else type(node.value)(0)))

    def visit_keyword(self, node: ast.keyword) -> None:
        if node.arg not in GUARDS:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if (name := called(node)) in CALLS:
            stop = self.span(node.func)[1]
            self.add((stop - len(name), stop), "min-max", CALLS[name])
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if ast.unparse(node.value) != "Literal":  # else a type
            self.generic_visit(node)

    def visit_Slice(self, node: ast.Slice) -> None:
        for bound in (node.lower, node.upper):
            if bound is not None and not isinstance(bound, ast.Constant):
                self.add(bound, "slice", f"({self.text(bound)}) + 1")
        self.generic_visit(node)
