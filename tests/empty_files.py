"""Files without content, for what looks at names alone."""


def make(folder, *names):
    """Make empty files with their folders, and return the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder
