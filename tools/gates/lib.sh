# What the gates share; sourced, never run. Works from the workspace's root, where `cd` leads.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

gate=$(basename "$0")

# A gate's help is its header comment.
help_if_asked() {
    case "${1-}" in
    -h | --help)
        sed -n '2,/^$/s/^# \{0,1\}//p' "tools/gates/$gate"
        exit 0
        ;;
    esac
}

refuse_arguments() {
    if [[ $# -gt 0 ]]; then
        fail "takes no arguments, got: $*"
    fi
}

fail() {
    echo "$gate: $*" >&2
    exit 1
}
