"""Worked examples in docstrings (`>>>`) are shown as code (an extension of griffe)."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Puts every `>>>` paragraph of a docstring into a block of code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            paragraph = re.compile(r"^>>> .*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
            obj.docstring.value = paragraph.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
