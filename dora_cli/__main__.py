"""``python -m dora_cli`` is ``dora``."""

from dora_cli.commands import app

if __name__ == "__main__":
    app(prog_name="dora")
