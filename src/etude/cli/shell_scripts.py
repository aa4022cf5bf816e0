"""What bash, zsh and fish run so that etude completes: `eval "$(etude -sc install=bash)"`.

Each asks `etude -sc query=SHELL` with the line up to the cursor in COMP_LINE, and is answered a word on each line.
"""

from __future__ import annotations

from collections.abc import Mapping

INSTALL: Mapping[str, str] = {
    # COMP_LINE is whole, whatever COMP_WORDBREAKS cuts it into: what stands before the last break is taken off the answers.
    "bash": """\
_etude_completion()
{
    local line="${COMP_LINE:0:COMP_POINT}" word IFS=$'\\n'
    word="${line##* }"
    COMPREPLY=($(COMP_LINE="$line" COMP_POINT=${#line} "${COMP_WORDS[0]}" -sc query=bash 2>/dev/null))
    local current="${COMP_WORDS[COMP_CWORD]}"
    [ "$current" = "=" ] && current=""
    local before="${word%"$current"}"
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
    [ ${#COMPREPLY[@]} -eq 1 ] && case "${COMPREPLY[0]}" in *[=./]) ;; *) COMPREPLY[0]+=" " ;; esac
}
complete -o nospace -o default -F _etude_completion etude
""",
    "zsh": """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u -D }
_etude_completion()
{
    local line="${BUFFER[1,CURSOR]}" found
    found=("${(@f)$(COMP_LINE="$line" COMP_POINT=${#line} ${words[1]} -sc query=zsh 2>/dev/null)}")
    found=(${found:#})
    local ends=(${(M)found:#*[=./]}) whole=(${found:#*[=./]})
    (( ${#found} )) || { _files; return }
    (( ${#ends} )) && compadd -Q -S '' -- "${ends[@]}"
    (( ${#whole} )) && compadd -Q -- "${whole[@]}"
}
compdef _etude_completion etude
""",
    "fish": """\
function __etude_completion
    set -lx COMP_LINE (commandline -cp)
    set -lx COMP_POINT (string length -- "$COMP_LINE")
    set -l words (commandline -cpo)
    $words[1] -sc query=fish 2>/dev/null
end
complete -c etude -f -a '(__etude_completion)'
""",
}
"""The text of each shell."""

UNINSTALL: Mapping[str, str] = {
    "bash": "complete -r etude\nunset -f _etude_completion\n",
    "zsh": "compdef -d etude\nunfunction _etude_completion\n",
    "fish": "complete -e -c etude\nfunctions -e __etude_completion\n",
}
"""What takes it away again."""
