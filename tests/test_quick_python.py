import subprocess


def test_options_are_taken(quick_python):
    """Passes what multiprocessing and torchrun pass on of the options with which they were started."""
    options = ["-B", "-u", "-bb", "-Wignore", "-W", "error::BytesWarning", "-X", "dev", "-Xutf8"]
    command = [quick_python, *options, "-c", "import sys; print(sys.argv[1:])", "-B"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "['-B']\n"
