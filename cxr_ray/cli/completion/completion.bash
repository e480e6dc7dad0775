# Tab completion of cxr-ray for bash.
_cxr_ray() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        [[ -n $line ]] && COMPREPLY+=("$line")
    done < <("${1/#\~/$HOME}" _complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[/.=:] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}
complete -F _cxr_ray cxr-ray
