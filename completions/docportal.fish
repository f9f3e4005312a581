# fish completion for docportal: docportal itself knows what can come next.
function __docportal_complete
    set -l words (commandline -opc)
    docportal complete -- $words[2..-1] (commandline -ct) 2>/dev/null
    or __fish_complete_path (commandline -ct)
end
complete -c docportal -f -a '(__docportal_complete)'
