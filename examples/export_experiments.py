"""Makes examples/experiments/ from the Mauna Loa record in statsmodels. For developers; nothing needs it at run time.

python examples/export_experiments.py          # needs: pip install statsmodels
"""

from __future__ import annotations

import csv
from collections import defaultdict
from datetime import datetime
from pathlib import Path

TARGET = Path(__file__).parent / "experiments"

HEADER = """\
# Mauna Loa Observatory, Hawaii, U.S.A.: atmospheric CO2, weekly averages
# Method: Applied Physics Corporation nondispersive infrared gas analyzer, continuous air samples
# Record: {year}, {weeks} weeks, {missing} without a value
# Unit: ppmv; nan where the record has no value
# date        co2
"""


def source_table() -> Path:
    """The table inside the installed statsmodels; read as text, so that no value is rounded on the way."""
    import statsmodels.datasets.co2 as dataset

    return Path(dataset.__file__).parent / "co2.csv"


def main() -> None:
    """Writes one file per year."""
    years: dict[int, list[str]] = defaultdict(list)
    missing: dict[int, int] = defaultdict(int)
    with source_table().open(newline="", encoding="ascii") as table:
        for row in csv.DictReader(table):
            day = datetime.strptime(row["date"], "%Y%m%d").date()
            years[day.year].append(f"{day.isoformat()}  {row['co2'] or 'nan':>6}\n")
            missing[day.year] += not row["co2"]
    TARGET.mkdir(exist_ok=True)
    for year, lines in sorted(years.items()):
        header = HEADER.format(year=year, weeks=len(lines), missing=missing[year])
        (TARGET / f"co2_{year}.txt").write_text(header + "".join(lines), encoding="ascii")
    print(f"{sum(map(len, years.values()))} weeks of {len(years)} years written to {TARGET}")


if __name__ == "__main__":
    main()
