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

# Files of the workspace whose names match the given patterns, committed or about to be.
files() {
    git ls-files --cached --others --exclude-standard -- "$@" | sort -u | while IFS= read -r file; do
        if [[ -e $file ]]; then printf '%s\n' "$file"; fi
    done
}

# Prints "PATH:LINE: CODE" for every line of the Rust files named on standard input that holds code. Comments, and what
# stands inside of string and character literals, are no code.
code_lines() {
    perl -e '
        while (my $path = <STDIN>) {
            chomp $path;
            open(my $file, "<", $path) or die "$path: $!";
            local $/;
            $_ = <$file>;
            s{
                (?<raw> (?<![A-Za-z0-9_]) [bc]?r(?<hash>\#*)" .*? "\k<hash> )
              | (?<string> " (?: \\. | [^"\\] )* " )
              | (?<char> \x27 (?: \\ [^\x27]+ | \\\x27 | [^\x27\\\n] ) \x27 )
              | (?<line> //[^\n]* )
              | (?<block> /\* .*? \*/ )
            }{ my $all = $&; my $quote = defined $+{line} || defined $+{block} ? " " : "\"\"";
               $quote . ("\n" x ($all =~ tr/\n//)) }gsex;
            my $number = 0;
            for my $code (split /\n/) {
                $number++;
                print "$path:$number: $code\n" if $code =~ /\S/;
            }
        }
    '
}
