"""What can be held against the sources and the binary without running anything: links, commands and options, variables,
tests, routes, files, modules. (Metrics are compared by `telemetry::names`.)"""

import re
import shlex
import subprocess
from pathlib import Path

OPERATORS = set("|&;()")
SHELL = {"!", "do", "else", "exec", "export", "if", "nice", "sudo", "then", "time", "until", "while"}
# What stands for something else in a command: NAME, [..], …
PLACEHOLDER = re.compile(r"[^a-z]*")
# Where the tests are that documents name by module and beginning.
PROCESSES = Path("integration/processes")


class Truth:
    def __init__(self, root, kith):
        self.root, self.kith, self.helps = root, kith, {}
        self.sources = {path: path.read_text(encoding="utf-8") for path in (root / "src").rglob("*.rs")}
        routes = re.findall(r'\.route\("([^"]+)"', (root / "src/http/routes.rs").read_text(encoding="utf-8"))
        patterns = (re.sub(r"\{\w+\}", "[^/]+", re.sub(r"\{\*\w+\}", ".+", route)) for route in routes)
        self.routes = [re.compile(pattern) for pattern in patterns]
        simulator = (path.read_text(encoding="utf-8") for path in (root / "integration/simulator").glob("*.rs"))
        self.simulator = "".join(simulator)
        scripts = [path for place in ("integration", "benches") for path in (root / place).rglob("*") if path.is_file()]
        texts = [path.read_text(encoding="utf-8", errors="replace") for path in [*scripts, root / ".ci/run"]]
        keys = re.findall(r'\bkey\(\s*"([a-z_.]+)"', self.sources[root / "src/config/keys.rs"])
        self.variables = {f"KITH_{key.replace('.', '_').upper()}" for key in keys}
        self.variables |= set(re.findall(r"KITH_[A-Z_]+", "".join([*self.sources.values(), *texts])))

    def problems(self, documents):
        by_path = {document.path.resolve(): document for document in documents}
        for document in documents:
            found = list(self.links(document, by_path))
            for number, line in document.commands():
                found += ((number, problem) for problem in [*self.command(line), *self.variable(line)])
            for number, span in document.spans():
                found += ((number, problem) for problem in self.span(span))
            for number, problem in sorted(set(found)):
                yield f"{document.name}:{number}: {problem}"

    def links(self, document, by_path):
        for number, link in document.links():
            if re.match(r"[a-z]+:", link):
                continue
            name, _, anchor = link.partition("#")
            path = (document.path.parent / name).resolve() if name else document.path.resolve()
            if not path.exists():
                yield number, f"the link {link} leads nowhere"
            elif anchor and path in by_path and anchor not in by_path[path].headings():
                yield number, f"the link {link} leads to a heading that there is not"

    def help(self, *words):
        """What `kith WORDS --help` prints, and the commands that it lists."""
        if words not in self.helps:
            asks = [self.kith, *words, "--help"]
            shown = subprocess.run(asks, capture_output=True, text=True, timeout=20, check=True).stdout
            listed = re.search(r"^Commands:\n(.*?)^\S", shown, re.MULTILINE | re.DOTALL)
            commands = re.findall(r"^  ([a-z-]+)", listed[1], re.MULTILINE) if listed else []
            self.helps[words] = shown, commands
        return self.helps[words]

    def everywhere(self):
        """What all commands print for `--help`."""
        todo, shown = [()], []
        while todo:
            words = todo.pop()
            text, commands = self.help(*words)
            shown.append(text)
            todo += [(*words, command) for command in commands if command != "help"]
        return "\n".join(shown)

    def command(self, line):
        """What is wrong with the commands of kith in a line of shell, or in a piece of code in a sentence."""
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            words = line.split()
        part = []
        for word in [*words, ";"]:
            if word and set(word) <= OPERATORS:
                yield from self.one_command(part)
                part = []
            else:
                if " " in word and "kith " in word:
                    # A command in quotes.
                    yield from self.command(re.sub(r".*?\bkith ", "kith ", word, count=1))
                part.append(word)

    def one_command(self, words):
        words = what_runs(words)
        # Texts may begin so, too, with a number or a sign behind it.
        if words[:1] != ["kith"] or not re.match(r"[a-z-]|$", "".join(words[1:2])):
            return
        words = words[1:]
        path, options, is_path = [], [], True
        for word in words:
            if word.startswith("-"):
                options.append(word.partition("=")[0])
                continue
            # What is behind it is a file.
            is_path = is_path and not re.match(r"\d*[<>]", word)
            commands = self.help(*path)[1]
            is_path = is_path and bool(commands) and not options
            if not is_path or PLACEHOLDER.fullmatch(word):
                continue
            if word not in commands:
                yield f"there is no command `kith {' '.join([*path, word])}`"
                return
            path.append(word)
        shown = self.help(*path)[0]
        for option in options:
            if option != "-" and not re.match(r"-\d", option) and not names(shown, option):
                yield f"`{' '.join(['kith', *path])}` has no option {option}"

    def span(self, span):
        if re.match(r"--?[a-z]", span):
            option = re.split(r"[ =]", span)[0]
            if not names(self.everywhere(), option):
                yield f"no command of kith has the option {option}"
        elif re.search(r"(^|\s)kith\s", span):
            yield from self.command(span)
        elif re.match(r"(src|integration|docs|config|examples|benches|\.ci)/[\w./-]+$", span):
            if not (self.root / span).exists():
                yield f"there is no {span}"
        elif "::" in span or span.startswith("simulator: "):
            yield from self.name(span)
        yield from self.route(span)
        yield from self.variable(span)

    def variable(self, text):
        for variable in re.findall(r"\bKITH_[A-Z_]*[A-Z]\b", text):
            if variable not in self.variables:
                yield f"nothing knows the variable {variable}"

    def route(self, span):
        for path in re.findall(r"(?<!\S)(/(?:v1/|health/)[\w/{}.-]+)", span):
            if not path.endswith(("/", ".")) and not any(route.fullmatch(path) for route in self.routes):
                yield f"HTTP has no route {path}"

    def name(self, span):
        """A test, a fact of the simulator, or a module or something in it."""
        test = re.fullmatch(r"([\w/]+\.rs)::(\w+)", span)
        module = re.fullmatch(r"([a-z_]+(?:::[A-Za-z_]+)+)(…)?(?:\(.*\))?", span)
        if span.startswith("simulator: "):
            if f'"{span.removeprefix("simulator: ")}"' not in self.simulator:
                yield f"the simulator has no such fact: {span}"
        elif test:
            files = [path for path in (self.root / test[1], self.root / "integration" / test[1]) if path.exists()]
            if not any(f"fn {test[2]}(" in path.read_text(encoding="utf-8") for path in files):
                yield f"there is no test {span}"
        elif module:
            first, *rest = module[1].split("::")
            if module[2]:
                processes = self.root / PROCESSES / f"{first}.rs"
                if not processes.exists() or f"fn {rest[0]}" not in processes.read_text(encoding="utf-8"):
                    yield f"there is no test {span}"
            elif (self.root / "src" / first).exists() and not self.is_in_module(first, rest):
                yield f"there is no {span} in the sources"

    def is_in_module(self, first, rest):
        place = self.root / "src" / first
        for at, part in enumerate(rest):
            inner = place / part
            if inner.is_dir() or inner.with_suffix(".rs").exists():
                place = inner
                continue
            # The last part is something that the module has.
            file = place.with_suffix(".rs")
            texts = (text for path, text in self.sources.items() if path == file or place in path.parents)
            return at + 1 == len(rest) and any(re.search(rf"\b{part}\b", text) for text in texts)
        return True


def what_runs(words):
    """A command without what stands before it: variables, words of the shell, a container in which it runs."""
    while words and (words[0] in SHELL or re.match(r"\w+=|.*\$$", words[0])):
        words = words[1:]
    if words[:1] == ["docker"] and "exec" in words:
        words = words[words.index("exec") + 2 :]
    return words


def names(shown, option):
    return re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown) is not None
