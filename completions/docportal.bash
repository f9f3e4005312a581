# bash completion for docportal: docportal itself knows what can come next.
_docportal() {
	mapfile -t COMPREPLY < <(docportal complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1)
}
complete -o default -F _docportal docportal
