"""What the tests of the commands share: texts, and a command that fails."""

from sse.cli.main import main

TEXTS = ["red circle", "", 'a "quoted", green square', "é漢🎉 blue"]


def failure(capsys, arguments):
    """Exit code and the one line on stderr."""
    code = main([str(a) for a in arguments])
    message = capsys.readouterr().err
    assert message.count("\n") == 1, message
    return code, message
