"""The command `tabserve`, and `python -m tabserve`."""

import gc


def main() -> None:
    gc.disable()  # imports make thousands of objects that stay: nothing need look at them, ever
    from tabserve.cli import main as command

    gc.freeze()
    gc.enable()
    command()


if __name__ == "__main__":
    main()
