"""Shows a speech recognition model: `hf-mlpl publish --space` wrote this file."""

from hf_mlpl.app.space import launch_space

launch_space("MODEL")
