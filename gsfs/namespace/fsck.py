"""The namespace's own checks: what must hold between its tables. Reads only; names what does not."""

from __future__ import annotations

from gsfs.namespace.store import Store

CHECKS: tuple[tuple[str, str], ...] = (
    (
        "entry leads to an inode that does not exist",
        "SELECT e.parent, e.ino FROM entry e LEFT JOIN inode i ON i.ino = e.ino WHERE i.ino IS NULL",
    ),
    (
        "entry in a directory that does not exist",
        "SELECT e.parent, e.ino FROM entry e LEFT JOIN inode i ON i.ino = e.parent WHERE i.ino IS NULL",
    ),
    (
        "inode has neither a name nor a place among the orphans",
        "SELECT i.ino, i.nlink FROM inode i WHERE i.ino <> 1 "
        "AND i.ino NOT IN (SELECT ino FROM entry) AND i.ino NOT IN (SELECT ino FROM orphan)",
    ),
    (
        "number of links of a file differs from its names",
        "SELECT i.ino, i.nlink, coalesce(n.names, 0) FROM inode i "
        "LEFT JOIN (SELECT ino, count(*) AS names FROM entry GROUP BY ino) n ON n.ino = i.ino "
        "WHERE (i.mode & 61440) <> 16384 AND coalesce(n.names, 0) <> i.nlink",
    ),
    (
        "number of links of a directory differs from its subdirectories",
        "SELECT d.ino, d.nlink, count(c.ino) FROM inode d LEFT JOIN inode c "
        "ON c.parent = d.ino AND (c.mode & 61440) = 16384 AND c.ino <> d.ino AND c.nlink > 0 "
        "WHERE (d.mode & 61440) = 16384 AND d.nlink > 0 GROUP BY d.ino, d.nlink HAVING count(c.ino) + 2 <> d.nlink",
    ),
    (
        "extents of a file overlap",
        'SELECT a.ino, a."offset" FROM extent a JOIN extent b ON a.ino = b.ino AND a."offset" < b."offset" '
        'AND a."offset" + a.length > b."offset"',
    ),
    (
        "extent of a file that does not exist",
        'SELECT x.ino, x."offset" FROM extent x LEFT JOIN inode i ON i.ino = x.ino WHERE i.ino IS NULL',
    ),
    (
        "extent lies past the end of its file",
        'SELECT x.ino, x."offset" FROM extent x JOIN inode i ON i.ino = x.ino WHERE x."offset" + x.length > i.size',
    ),
    (
        "extent lies past the end of its object",
        "SELECT x.ino, x.object FROM extent x LEFT JOIN object o ON o.id = x.object "
        "WHERE o.id IS NULL OR x.object_offset + x.length > o.size",
    ),
    (
        "allocated bytes of a file differ from its extents",
        "SELECT i.ino, i.allocated, coalesce(sum(x.length), 0) FROM inode i LEFT JOIN extent x ON x.ino = i.ino "
        "GROUP BY i.ino, i.allocated HAVING coalesce(sum(x.length), 0) <> i.allocated",
    ),
    (
        "live bytes of an object differ from the extents that refer to it",
        "SELECT o.id, o.live, coalesce(x.bytes, 0) FROM object o "
        "LEFT JOIN (SELECT object, sum(length) AS bytes FROM extent GROUP BY object) x ON x.object = o.id "
        "WHERE coalesce(x.bytes, 0) <> o.live",
    ),
    (
        "live object without a readable replica",
        "SELECT o.id, o.live FROM object o WHERE o.live > 0 AND NOT EXISTS (SELECT 1 FROM replica r "
        "WHERE r.object = o.id AND r.state IN ('available', 'expiring'))",
    ),
    (
        "replica of an object that does not exist",
        "SELECT r.object, r.location FROM replica r LEFT JOIN object o ON o.id = r.object WHERE o.id IS NULL",
    ),
    (
        "bucket without its directory",
        "SELECT b.ino, b.home FROM bucket b LEFT JOIN entry e ON e.ino = b.ino AND e.parent = 1 WHERE e.ino IS NULL",
    ),
    (
        "used bytes of a bucket differ from its files",
        "SELECT b.ino, b.used_bytes, coalesce(sum(i.allocated), 0) FROM bucket b LEFT JOIN inode i ON i.bucket = b.ino "
        "GROUP BY b.ino, b.used_bytes HAVING coalesce(sum(i.allocated), 0) <> b.used_bytes",
    ),
    (
        "used inodes of a bucket differ from its files",
        "SELECT b.ino, b.used_inodes, count(i.ino) FROM bucket b LEFT JOIN inode i ON i.bucket = b.ino "
        "GROUP BY b.ino, b.used_inodes HAVING count(i.ino) <> b.used_inodes",
    ),
)
"""(what is wrong, the query whose rows are the cases). Plain SQL that SQLite and PostgreSQL both take. ``entry`` has no
index by inode and ``extent`` none by object: joined by those, all of them would be looked through for each."""
CASES_SHOWN = 5


def check(store: Store) -> list[str]:
    """Every problem, one line each; empty when the namespace is consistent. Write changes out before."""
    problems = list(store.database.check())
    for what, sql in CHECKS:
        store.database.cursor.execute(sql)
        rows = store.database.cursor.fetchall()
        if rows:
            cases = "; ".join(str(tuple(row)) for row in rows[:CASES_SHOWN])
            problems.append(f"{what}: {len(rows)} case(s): {cases}")
    return problems
