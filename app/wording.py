"""What chips and the style switch do to a prompt. The prompt itself is all that they change, and all they know.

Capitals make no difference: a prompt is known by its words, however visitor and export write them.
"""

from collections.abc import Collection, Mapping, Sequence

AS_WRITTEN = "as written"


def with_style(prompt: str, style: str, styles: Mapping[str, str]) -> str:
    """`prompt` beginning as `style` does, in place of how another one begins. `styles`: name -> how it begins."""
    present = styles.get(style_of(prompt, styles), "")
    bare = prompt[len(present) :].lstrip()
    return f"{styles[style]} {bare}".rstrip() if style in styles else bare


def style_of(prompt: str, styles: Mapping[str, str]) -> str:
    written = f"{prompt.lower()} "
    return next((name for name, start in styles.items() if written.startswith(f"{start.lower()} ")), AS_WRITTEN)


def with_keywords(prompt: str, chosen: Collection[str], keywords: Sequence[str]) -> str:
    """`prompt` with the chosen keywords, the missing ones at its end, and without the others."""
    parts = [part.strip() for part in prompt.split(",")]
    dropped = {word.lower() for word in keywords if word not in chosen}
    kept = [part for part in parts if part.lower() not in dropped]
    present = keywords_of(prompt, keywords)
    return ", ".join(filter(None, [*kept, *(word for word in keywords if word in chosen and word not in present)]))


def keywords_of(prompt: str, keywords: Sequence[str]) -> list[str]:
    present = {part.strip().lower() for part in prompt.split(",")}
    return [word for word in keywords if word.lower() in present]
