"""Documents in Markdown: their blocks, headings, links and pieces of code, each with its line."""

import re

FENCE = re.compile(r"^\s*(`{3,})\s*(.*?)\s*$")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^()\s]+)\)")
# Of a fence that says how a block is run.
WORDS = re.compile(r"sh(?P<terminal> terminal)?(?: (?P<key>skip|needs|ready): (?P<value>\S.*))?")


class Block:
    """A fenced block; `line` is that of its fence, from 1."""

    def __init__(self, line, info):
        self.line, self.info, self.lines = line, info, []
        words = WORDS.fullmatch(info)
        self.is_shell = words is not None
        self.is_terminal = bool(words and words["terminal"])
        self.options = {words["key"]: words["value"]} if words and words["key"] else {}
        self.is_output = info == "text output"

    @property
    def text(self):
        return "".join(line + "\n" for line in self.lines)

    @property
    def is_run(self):
        return self.is_shell and "skip" not in self.options


class Document:
    def __init__(self, root, path):
        self.path, self.name = path, str(path.relative_to(root))
        self.blocks, self.unended, self.prose = [], None, []
        block, end = None, None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            fence = FENCE.match(line)
            if block is None and fence:
                block, end = Block(number, fence[2]), fence[1]
            elif block is not None and fence and fence[1] == end and not fence[2]:
                self.blocks.append(block)
                block = None
            elif block is not None:
                block.lines.append(line)
            else:
                self.prose.append((number, line))
        self.unended = block

    def has_runs(self):
        return any(block.is_run for block in self.blocks)

    def fence_problems(self):
        if self.unended:
            yield f"{self.name}:{self.unended.line}: this block has no end"
        before = None
        for block in self.blocks:
            at = f"{self.name}:{block.line}"
            if not block.info:
                yield f"{at}: this block does not say what it is; see integration/documents/main.py"
            elif block.info.split()[0] == "sh" and not block.is_shell:
                yield f"{at}: `{block.info}` can't be understood; see integration/documents/main.py"
            elif "ready" in block.options and not block.is_terminal:
                yield f"{at}: only terminals are waited for"
            elif block.is_output and not (before and before.is_run and not before.is_terminal):
                yield f"{at}: no block that is run stands before this output"
            before = block

    def headings(self):
        """The anchors that its headings make."""
        seen = {}
        for _, line in self.prose:
            heading = HEADING.match(line)
            if heading:
                text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
                slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
                count = seen.get(slug, 0)
                seen[slug] = count + 1
                yield f"{slug}-{count}" if count else slug

    def links(self):
        for number, line in self.prose:
            for link in LINK.finditer(SPAN.sub("``", line)):
                yield number, link[1]

    def spans(self):
        """Pieces of code in its sentences."""
        for number, line in self.prose:
            for span in SPAN.finditer(line):
                yield number, span[1].strip()

    def commands(self):
        """Lines of its shell blocks, those that go on joined to one."""
        for block in self.blocks:
            if not block.is_shell and block.info:
                continue
            joined, begin = "", None
            for number, line in enumerate(block.lines, start=block.line + 1):
                begin = begin or number
                joined += line.removesuffix("\\")
                if not line.endswith("\\"):
                    yield begin, joined
                    joined, begin = "", None
