"""Write the Python of README and pages into a folder, one file a page, for type checkers.

Pages whose code needs packages that nsopt does not install are left out.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
NEED_OTHERS = ("yolo", "huggingface", "onnx")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.py"):
        old.unlink()
    for page in PAGES:
        code = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
        if code and page.stem not in NEED_OTHERS:
            (folder / f"{page.stem}_md.py").write_text("\n".join(code))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
