"""What Hugging Face Spaces runs, and `python app.py` anywhere: settings, wiring, app, launch."""

import sys

from chatlab.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve"]))
