"""The official files of the E2E NLG challenge, and of its cleaned release: quoted CSV, a source and one reference per
row.

UTF-8, rows end with CR LF or LF, and a reference may hold a line break, which stays as it is (and so is part of a
fingerprint). The challenge's test file without references calls its column ``MR``, the other files ``mr``, so case does
not count. The cleaned release has more columns, which are left out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dora_cli.data.examples import Examples
from dora_cli.data.sources.official import find_official
from dora_cli.data.sources.tables import no_examples, read_delimited
from dora_cli.data.sources.values import check_texts, quoted
from dora_cli.errors import DataError

if TYPE_CHECKING:
    from dora_cli.data.sources.fields import CsvLayout, Fields


def read_e2e_csv(fields: Fields, layout: CsvLayout, folder: Path, split: str) -> Examples:
    """Examples of `split` from the official files in `folder`; sources alone where a split that needs no references has
    none.

    Raises:
        DataError: a missing folder, file or column, a damaged row, an empty source or reference, bytes that are no
            UTF-8; names the file and the line.
    """
    table = read_delimited(find_official(fields.task, "e2e-csv", folder, layout.files, split))
    by_key = {name.lower(): name for name in table.columns}
    wanted = [layout.source, layout.target] if fields.complete(split) or layout.target in by_key else [layout.source]
    missing = [name for name in wanted if name not in by_key]
    if missing and table.fault is not None:
        raise DataError(table.fault)
    if missing:
        raise DataError(
            f"{table.name}: no column {quoted(missing)}; the header has {quoted(list(table.columns))}. Is this the "
            f"release of {fields.task}? For files of your own, set data.source: files"
        )
    if not table.rows:
        raise no_examples(table.name)
    texts = tuple(check_texts(table.columns[by_key[name]], by_key[name], table.where, filled=True) for name in wanted)
    return Examples(texts, None)
