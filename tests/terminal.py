"""A standard error that is a terminal, on which progress bars are drawn."""

import io


class Terminal(io.StringIO):
    """What is written to it is kept."""

    def isatty(self) -> bool:
        return True

    def taken(self) -> str:
        """What was written since the last call."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text
