"""The commands and their descriptions. Their modules are in commands/, which is not imported here."""

# Command -> its line in `cxr-ray --help`, the first line of its docstring. A command's module is imported only when it runs.
COMMANDS = {
    "doctor": "Check this machine's packages, devices, memory and disks, and show how to fix problems.",
    "demo": "Run ingest, train and evaluate on synthetic X-rays, without data or network.",
    "sources": "List the datasets that can be ingested, and their options.",
    "models": "List the models that can be trained, and their options.",
    "ingest": "Decode and resize a dataset once, in parallel, into Arrow shards.",
    "describe": "Show a store's label frequencies, label vectors and split balance, one of its images, or what training sees of it.",
    "verify": "Check every byte of a store against its checksums.",
    "init": "Write a commented config for a store, to edit and train with.",
    "train": "Train a model on a store, in this process or on Ray.",
    "tune": "Search hyperparameters: many trials on one store, evaluated label by label on the same rows.",
    "evaluate": "Evaluate a run on its test part, label by label, and write its report.",
    "predict": "Predict every image of an archive with a run, and write one table; for DICOMs also structured reports.",
    "explain": "Show which pixels a model's output depends on: maps, certificates, figures, an audit for shortcuts.",
    "export": "Write a run as one ONNX or pt2 file that needs no cxr_ray, with a model card.",
    "show": "Show a run's settings and metrics, also for other labels, parts and thresholds.",
    "embed": "Write the pooled features of a store's images, to fit heads on them in seconds and to find similar images.",
    "errors": "List the worst wrong decisions of a run: row, truth, decision, probability, loss and file.",
    "runs": "List the runs in a folder.",
    "compare": "Compare runs on the rows they share: differences with confidence intervals, on one page.",
    "serve": "Serve a run over HTTP: POST a PNG, JPEG or DICOM file as the body to /predict, and get probabilities and decisions.",
    "submit": "Run another command as a job of a Ray cluster, and follow its log.",
    "phantom": "Write synthetic chest X-rays to disk, in a documented layout.",
    "config": "Show every setting with its default and meaning, or a config file, resolved.",
    "completion": "Print a script for tab completion in bash, zsh or fish.",
}
