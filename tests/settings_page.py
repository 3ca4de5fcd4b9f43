"""docs/settings.md, made from the table of settings; `scripts/docs` writes it."""

from typing import get_args

from tabserve.settings import Settings, flag, variable


def page() -> str:
    lines = [
        "# Settings",
        "",
        "A flag of `tabserve serve` wins over the variable, and that over a line in",
        "`tabserve.toml` in the working directory, where the name has underscores",
        '(`rate_limit = "100/minute"`). An unknown name is an error. A flag that takes no value',
        "is `true` as a variable and in the file (`TABSERVE_SUPERVISE=true`, `supervise = true`).",
        "",
        "| flag | variable | default | |",
        "|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        shown = "`PATH`" if name == "path" else f"`{flag(name)}`"
        default = field.get_default()
        extra = field.json_schema_extra
        unit = extra.get("unit", "") if isinstance(extra, dict) else ""
        shown_default = str(default).lower() if isinstance(default, bool) else default
        value = "" if default in (None, ()) else f"{shown_default} {unit}".strip()
        choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
        about = [field.description or "", *([f"One of {', '.join(choices)}."] if choices else [])]
        lines.append(f"| {shown} | `{variable(name)}` | {value} | {' '.join(about)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
