"""A JSON file with long lists, written item by item: a million images do not wait in memory."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def json_lists(path: Path, head: Mapping[str, Any], *lists: str) -> Iterator[Callable[[str, Any], None]]:
    """Write one JSON object: `head`, then the lists, an item a line.

    Args:
        path: of the file. The lists grow in files without a name beside it.
        head: values that are known before.
        lists: names of the lists, in their order in the file.

    Yields:
        A function that appends an item (as JSON can hold it) to a list by name, the lists in any order.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        parts: dict[str, TextIO] = {
            name: files.enter_context(tempfile.TemporaryFile("w+", encoding="ascii", dir=path.parent)) for name in lists
        }
        begun = set[str]()

        def append(name: str, item: Any) -> None:
            parts[name].write(",\n" if name in begun else "")
            parts[name].write(json.dumps(item))
            begun.add(name)

        yield append
        with path.open("w", encoding="ascii") as file:
            file.write("{" + "".join(f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()))
            for number, (name, part) in enumerate(parts.items()):
                file.write(f"{',' if number else ''}\n{json.dumps(name)}: [\n")
                part.seek(0)
                shutil.copyfileobj(part, file)
                file.write("\n]")
            file.write("}\n")
