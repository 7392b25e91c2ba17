# SPDX-License-Identifier: Apache-2.0
# The rules of tests/tidy.sh that are about the text of a file: LC_ALL=C awk -f tests/tidy.awk FILE...
# Prints "file:line: reason" for each violation.  Functions are found by their braces in text whose comments and
# literals have been taken out; a closing brace in column 1 ends one whatever #if did to the count.

BEGIN {
    folders("base", "base/")
    folders("profiling", "base/ profiling/")
    folders("kernels", "base/ kernels/ profiling/prof.h")
    folders("dist", "base/ dist/ profiling/prof.h")
    folders("model", "base/ kernels/ model/ profiling/prof.h")
    folders("data", "base/ data/")
    folders("parallel", "base/ dist/ kernels/ parallel/ model/seams.h model/params.h model/param_parts.h")
    folders("checkpoints", "base/ dist/ checkpoints/ model/params.h model/param_parts.h model/config.h")
    all = "base/ profiling/ kernels/ dist/ model/ data/ parallel/ checkpoints/ launch/"
    folders("launch", all)
    folders("tests", all " tests/")

    # Third-party headers: each belongs to one folder ("*": any).
    third("jansson.h openssl/ xxhash.h isa-l", "base")
    third("nvtx3/ cupti nvperf", "profiling")
    third("cblas.h openblas_config.h cublas cudnn mma.h cuda_bf16.h cuda_fp16.h immintrin.h", "kernels")
    third("mpi.h nccl.h", "dist")
    third("pcre2.h", "data")
    third("yaml.h pmix nvml.h", "launch")
    third("cmocka.h tuple type_traits", "tests")
    third("cuda_runtime", "*")
    third("cuda.h", "kernels")
    system_headers("assert complex ctype dirent dlfcn errno fcntl fenv float fnmatch ftw glob inttypes libgen limits")
    system_headers("locale math poll pthread sched setjmp signal spawn stdalign stdarg stdatomic stdbool stddef stdint")
    system_headers("stdio stdlib string strings termios tgmath threads time unistd wchar wctype sys/ gnu/")

    # The headers that define a core type or an op.
    core = "^(base/(status|ctx|tensor)|kernels/ops|model/(params|seams))[.]h$"
    allocators = "malloc|calloc|realloc|reallocarray|free|strdup|strndup|asprintf|vasprintf|getline|getdelim"
    allocators = allocators "|aligned_alloc|posix_memalign|memalign|alloca"
}

function folders(name, list,    part, n, i) {
    n = split(list, part, " ")
    for (i = 1; i <= n; i++) may[name, part[i]] = 1
    known_folder[name] = 1
}
function third(list, folder,    part, n, i) {
    n = split(list, part, " ")
    for (i = 1; i <= n; i++) owner[part[i]] = folder
}
function system_headers(list,    part, n, i) {
    n = split(list, part, " ")
    for (i = 1; i <= n; i++) plain[part[i] ~ /\/$/ ? part[i] : part[i] ".h"] = 1
}
function bad(line, reason) { print FILENAME ":" line ": " reason }
function folder_of(path) { return substr(path, 1, index(path, "/") - 1) }

function include_edge(path,    top) {
    top = folder_of(path)
    if (!(top in known_folder)) bad(FNR, "#include \"" path "\" does not start at a folder of the project")
    else if (!((folder, top "/") in may) && !((folder, path) in may))
        bad(FNR, folder "/ must not include " path)
}
function include_library(path,    key) {
    if (path in plain || (folder_of(path) "/") in plain) return
    for (key in owner) {
        if (index(path, key) != 1) continue
        if (owner[key] != "*" && owner[key] != folder) bad(FNR, "<" path "> belongs to " owner[key] "/ alone")
        return
    }
    bad(FNR, "<" path "> is not known to tests/tidy.awk: give it a folder there")
}
function check_include(line,    path) {
    if (line !~ /^[ \t]*#[ \t]*include/) return
    path = line
    sub(/^[ \t]*#[ \t]*include[ \t]*/, "", path)
    if (path ~ /^"/) { sub(/^"/, "", path); sub(/".*/, "", path); include_edge(path) }
    else if (path ~ /^</) { sub(/^</, "", path); sub(/>.*/, "", path); include_library(path) }
}

# The comment that began at line `from` and holds `text`: is it a statement that was switched off?
function check_comment(text, from) {
    gsub(/^[ \t*\/]+|[ \t*\/]+$/, "", text)
    if (text ~ /^#[ \t]*(include|define|if|ifdef|ifndef|else|endif|pragma)/ ||
        text ~ /^(if|for|while|switch) ?\(.*\).*[;{]$/ ||
        text ~ /^return[^.]*;$/ ||
        text ~ /^[a-z_]+(\(.*\)|[^ ]* [-+*\/]?= [^.]*);$/ ||
        text ~ /^(const |static |struct |enum |unsigned )*[a-z_0-9]+ \**[a-z_0-9]+(\[.*\])?( = .*)?;$/)
        bad(from, "commented-out code: " text)
}

# Takes comments and literals out of a line; state: in_comment, comment, comment_from.
function strip(line,    out, c, end) {
    out = ""
    while (line != "") {
        if (in_comment) {
            end = index(line, "*/")
            if (!end) { comment_line(line); return out }
            comment_line(substr(line, 1, end - 1))
            check_comment(comment, comment_from)
            line = substr(line, end + 2)
            in_comment = 0
            continue
        }
        if (!match(line, /["'\/]/)) return out line
        out = out substr(line, 1, RSTART - 1)
        c = substr(line, RSTART, 1)
        line = substr(line, RSTART)
        if (substr(line, 1, 2) == "/*") { in_comment = 1; comment = ""; comment_from = FNR; line = substr(line, 3) }
        else if (substr(line, 1, 2) == "//") { check_comment(line, FNR); return out }
        else if (c == "/") { out = out "/"; line = substr(line, 2) }
        else { line = after_literal(line, c); out = out c c }
    }
    return out
}
function comment_line(text) {
    if (comment != "") check_comment(text, FNR)
    comment = comment == "" ? text : comment " " text
}
function after_literal(line, quote,    i, c) {
    for (i = 2; i <= length(line); i++) {
        c = substr(line, i, 1)
        if (c == "\\") i++
        else if (c == quote) return substr(line, i + 1)
    }
    return ""
}

function has_word(code, words) { return (" " code " ") ~ ("[^A-Za-z0-9_.>](" words ")[^A-Za-z0-9_]") }
# A call, or the function kept in a pointer; a variable, member or field of that name is neither.
function calls(code, words) {
    return (" " code) ~ ("[^A-Za-z0-9_.>](" words ")[ \t]*[(]") || code ~ ("=[ \t]*(" words ")[ \t]*[,;]")
}
function check_words(code) {
    # One test puts itself in malloc's place, to count.
    if (FILENAME !~ /^(base\/arena|tests\/step_allocates)\.c$/ && calls(code, allocators))
        bad(FNR, "memory comes from base/arena.h alone")
    if (folder !~ /^(launch|base|tests)$/ && calls(code, "(secure_)?getenv|_?exit|quick_exit|abort"))
        bad(FNR, "getenv and exit live in launch/, base/ and tests/")
    if (code ~ /^[ \t]*#[ \t]*if[ \t]+0/) bad(FNR, "code switched off by #if 0")
    if (has_word(code, "typedef") && code ~ /typedef[ \t]+(struct|enum|union)[^(]*$/ && FILENAME !~ /\.cu$/)
        bad(FNR, "types are named struct x and enum x, without typedef")
}

# Braces: a function is a block at level 0 whose opening brace follows a closing parenthesis.
function check_braces(code,    i, c) {
    if (code ~ /^[ \t]*#/ || in_macro) { in_macro = code ~ /\\[ \t]*$/; return }
    if (code ~ /^extern "" *\{/) { return }
    if (code ~ /^\}/) { end_block(); sub(/^\}/, "", code) }
    for (i = 1; i <= length(code); i++) {
        c = substr(code, i, 1)
        if (c == "{") { if (depth++ == 0) begin_block() }
        else if (c == "}") { if (depth > 0 && --depth == 0) end_block() }
        else if (depth == 0 && c == ";") { signature_from = 0; signature = "" }
        else if (depth == 0 && c !~ /[ \t]/) { if (!signature_from) signature_from = FNR; signature = signature c }
    }
}
function begin_block() { block_is_function = signature ~ /\)$/; block_from = signature_from }
function end_block(    limit) {
    depth = 0
    limit = signature ~ /__global__/ ? 120 : 70
    if (block_is_function && FNR - block_from + 1 > limit)
        bad(block_from, "function of " (FNR - block_from + 1) " lines, above " limit)
    block_is_function = 0
    signature_from = 0
    signature = ""
}

function check_text(line,    n) {
    n = length(line) - gsub(/[\200-\277]/, "", line) # columns: bytes that do not continue a UTF-8 character
    if (n > 120) bad(FNR, "line of " n " columns, above 120")
    if (line ~ /[ \t]$/) bad(FNR, "space at the end of the line")
    if (line ~ /(TO[D]O|FIX[M]E|(^|[^X])XX[X]([^X]|$))/) bad(FNR, "a left-over note: do it or drop it")
}
function is_op_contract(path,    part) {
    return split(path, part, "/") == 3 && part[1] == "kernels" && part[3] == part[2] ".h"
}
function file_end() {
    if (n_lines > 500) print file ":500: file of " n_lines " lines, above 500"
    if ((file ~ core || is_op_contract(file)) && n_lines > 80)
        print file ":80: header of " n_lines " lines; a contract has at most 80"
    if (file != "" && !has_licence) print file ":1: the first line must hold SPDX-License-Identifier: Apache-2.0"
}

FNR == 1 {
    file_end()
    file = FILENAME
    folder = folder_of(file)
    is_c = file ~ /\.(c|h|cu|cuh|def)$/
    has_licence = in_comment = in_macro = depth = block_is_function = signature_from = 0
    signature = ""
}
FNR <= 2 && /SPDX-License-Identifier: Apache-2\.0/ && (FNR == 1 || first ~ /^#!/) { has_licence = 1 }
FNR == 1 { first = $0 }
{
    n_lines = FNR
    check_text($0)
}
is_c {
    check_include($0)
    code = strip($0)
    check_words(code)
    check_braces(code)
}
END { file_end() }
