"""``python demo/webcam.py MODEL …`` is ``detq demo MODEL …``."""

import sys

from detq.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "demo")
    main()
