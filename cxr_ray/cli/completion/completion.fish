# Tab completion of cxr-ray for fish.
function __cxr_ray_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    $words[1] _complete fish $words[2..-1] "$current" 2>/dev/null
end
complete -c cxr-ray -f -a '(__cxr_ray_complete)'
