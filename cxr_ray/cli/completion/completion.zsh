#compdef cxr-ray
# Tab completion of cxr-ray for zsh.
_cxr_ray() {
    local line
    local -a ended ended_about open
    for line in "${(@f)$(${~${(Q)words[1]}} _complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
        case ${line%%$'\t'*} in
            '') ;;
            *[/.=:]) open+=("${line%%$'\t'*}") ;;
            *) ended+=("${line%%$'\t'*}"); ended_about+=("${line/$'\t'/  -- }") ;;
        esac
    done
    compadd -l -d ended_about -a ended
    compadd -S '' -a open
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _cxr_ray "$@"
else
    whence compdef >/dev/null || { autoload -Uz compinit && compinit }
    compdef _cxr_ray cxr-ray
fi
