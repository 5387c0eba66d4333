"""`ledgerd completion`: what a shell needs to complete our commands."""

import click
from click.shell_completion import get_completion_class

from ledgerd.node.cli.output import Output, command


@command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(output: Output, shell: str) -> None:
    """Print the script that completes commands in a shell.

    \b
    Once, for bash:  ledgerd completion bash > \\
                       ~/.local/share/bash-completion/completions/ledgerd
    for zsh:         ledgerd completion zsh > FOLDER_OF_FPATH/_ledgerd
    for fish:        ledgerd completion fish > \\
                       ~/.config/fish/completions/ledgerd.fish
    """
    from ledgerd.node.cli.main import PROGRAM, cli  # noqa: PLC0415 (main loads us)

    found = get_completion_class(shell)
    assert found is not None, "click knows the three shells"
    output.text("completion", "script", found(cli, {}, PROGRAM, "_LEDGERD_COMPLETE").source())
