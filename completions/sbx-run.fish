# fish completion for sbx-run: sbx-run itself knows what can come next.
function __sbx_run_complete
    set -l words (commandline -opc)
    sbx-run --complete -- $words[2..-1] (commandline -ct) 2>/dev/null
    or __fish_complete_path (commandline -ct)
end
complete -c sbx-run -f -a '(__sbx_run_complete)'
