# bash completion for sbx-run: sbx-run itself knows what can come next.
_sbx_run() {
	mapfile -t COMPREPLY < <(sbx-run --complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)
}
complete -o default -F _sbx_run sbx-run
