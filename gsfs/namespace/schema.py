"""Tables of the namespace, described once for every dialect. Owns names, types and comments; runs nothing.

Times are integer nanoseconds since the Unix epoch, sizes are bytes, names are raw bytes.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, String, Table, Text

SCHEMA_VERSION = 1
"""Raised by each change of the tables; ``namespace.upgrades`` carries the steps."""

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True, comment="what is recorded"),
    Column("value", Text, nullable=False, comment="its value, as text"),
    comment="facts of the whole namespace: schema_version, namespace_id, name, created_ns, segment_size",
)

counter = Table(
    "counter",
    metadata,
    Column("name", String(32), primary_key=True, comment="see store.COUNTERS"),
    Column("value", BigInteger, nullable=False, comment="next number to hand out; numbers are never reused"),
    comment="number sequences, handed out in blocks; and the mark of the last durable commit (sqlite.py)",
)

inode = Table(
    "inode",
    metadata,
    Column("ino", BigInteger, primary_key=True, autoincrement=False, comment="inode number; 1 is the root"),
    Column("bucket", BigInteger, nullable=False, comment="ino of the virtual bucket's directory; root: 1"),
    Column("parent", BigInteger, nullable=False, comment="directories: ino of the parent; others: 0"),
    Column("mode", BigInteger, nullable=False, comment="st_mode: type and permission bits"),
    Column("uid", BigInteger, nullable=False, comment="owner"),
    Column("gid", BigInteger, nullable=False, comment="group"),
    Column("rdev", BigInteger, nullable=False, comment="device number; 0 unless a device"),
    Column("nlink", BigInteger, nullable=False, comment="names; directories: 2 + subdirectories; 0: orphan"),
    Column("size", BigInteger, nullable=False, comment="st_size; bytes no extent covers read as zeros"),
    Column("allocated", BigInteger, nullable=False, comment="bytes covered by extents; st_blocks * 512"),
    Column("atime_ns", BigInteger, nullable=False, comment="last access (relatime rules)"),
    Column("mtime_ns", BigInteger, nullable=False, comment="last change of the content"),
    Column("ctime_ns", BigInteger, nullable=False, comment="last change of the inode"),
    comment="one row for each file, directory, link, fifo, socket or device",
    sqlite_with_rowid=True,
)

entry = Table(
    "entry",
    metadata,
    Column("parent", BigInteger, primary_key=True, autoincrement=False, comment="ino of the directory"),
    Column("name", LargeBinary(255), primary_key=True, comment="raw bytes, 1 to 255, neither / nor NUL"),
    Column("ino", BigInteger, nullable=False, comment="what the name leads to; its inode row exists"),
    Column("number", BigInteger, nullable=False, comment="order of creation: bounds a running listing"),
    comment="directory entries, without . and ..",
    sqlite_with_rowid=False,
)

symlink = Table(
    "symlink",
    metadata,
    Column("ino", BigInteger, primary_key=True, autoincrement=False, comment="the symbolic link's inode"),
    Column("target", LargeBinary, nullable=False, comment="raw bytes, 1 to 4095"),
    comment="targets of symbolic links",
)

xattr = Table(
    "xattr",
    metadata,
    Column("ino", BigInteger, primary_key=True, autoincrement=False, comment="the inode it belongs to"),
    Column("name", LargeBinary(255), primary_key=True, comment="with its prefix, such as user.colour"),
    Column("value", LargeBinary, nullable=False, comment="raw bytes, up to 65536"),
    comment="extended attributes, POSIX ACLs among them (system.posix_acl_*)",
    sqlite_with_rowid=False,
)

orphan = Table(
    "orphan",
    metadata,
    Column("ino", BigInteger, primary_key=True, autoincrement=False, comment="inode with nlink 0"),
    comment="inodes without a name: still open somewhere, or waiting for the reaper",
)

rebucket = Table(
    "rebucket",
    metadata,
    Column(
        "ino", BigInteger, primary_key=True, autoincrement=False, comment="directory moved between buckets"
    ),
    comment="directories whose descendants still count for the bucket they were moved from",
)

extent = Table(
    "extent",
    metadata,
    Column("ino", BigInteger, primary_key=True, autoincrement=False, comment="the file"),
    Column("offset", BigInteger, primary_key=True, autoincrement=False, comment="first byte, in the file"),
    Column("length", BigInteger, nullable=False, comment="bytes; > 0; extents of a file never overlap"),
    Column("object", BigInteger, nullable=False, comment="the physical object that holds the bytes"),
    Column("object_offset", BigInteger, nullable=False, comment="first byte, in the object"),
    comment="which run of which object is which run of which file",
    sqlite_with_rowid=False,
)

object_ = Table(
    "object",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False, comment="physical object; never reused"),
    Column("bucket", BigInteger, nullable=False, comment="ino of the virtual bucket whose policies apply"),
    Column("epoch", BigInteger, nullable=False, comment="the mount that made it; part of its key"),
    Column("state", String(8), nullable=False, comment="open (a segment) or sealed (immutable)"),
    Column("size", BigInteger, nullable=False, comment="bytes; of an open segment: as of this commit"),
    Column("live", BigInteger, nullable=False, comment="bytes that extents refer to; 0 and sealed: garbage"),
    Column("crc32c", BigInteger, nullable=False, comment="CRC32C of the bytes [0, size); -1: not known yet"),
    Column(
        "block_crcs",
        LargeBinary,
        comment="sealed: CRC32C of each 1 MiB block, 4 bytes big-endian each; "
        "NULL: open, or imported and never read as a whole",
    ),
    Column("created_ns", BigInteger, nullable=False, comment="when the first byte was appended"),
    Column("synced", BigInteger, nullable=False, comment="bytes [0, synced) known to be on the local disk"),
    comment="physical objects",
)

redo = Table(
    "redo",
    metadata,
    Column(
        "object", BigInteger, primary_key=True, autoincrement=False, comment="an object with a local file"
    ),
    Column("offset", BigInteger, primary_key=True, autoincrement=False, comment="first byte, in the object"),
    Column("data", LargeBinary, nullable=False, comment="the bytes, to be written to the file after a crash"),
    comment="small appends made durable by the log of commits instead of a flush of their own",
)

replica = Table(
    "replica",
    metadata,
    Column("object", BigInteger, primary_key=True, autoincrement=False, comment="the physical object"),
    Column("location", String(128), primary_key=True, comment="where; 'cache' is this mount's local disk"),
    Column("state", String(16), nullable=False, comment="see namespace.replicas.TRANSITIONS"),
    Column("key", Text, comment="key at the location; NULL: derived from the object's number and epoch"),
    Column("etag", Text, comment="the provider's version tag once available"),
    Column(
        "since_ns",
        BigInteger,
        nullable=False,
        comment="when the state was entered; readable: when it became so",
    ),
    Column("expires_ns", BigInteger, comment="when the policy lets it go; NULL: never (home location)"),
    Column(
        "owned",
        BigInteger,
        nullable=False,
        comment="1: deleted at the location when let go; 0: only forgotten",
    ),
    comment="copies of physical objects; a live object's last available replica is never removed",
    sqlite_with_rowid=False,
)

bucket = Table(
    "bucket",
    metadata,
    Column("ino", BigInteger, primary_key=True, autoincrement=False, comment="the bucket's directory"),
    Column("home", String(128), nullable=False, comment="home location: its replica never expires"),
    Column("durability", String(16), nullable=False, comment="writeback, local or remote"),
    Column("copies", BigInteger, nullable=False, comment="remote: locations that must hold the bytes; >= 1"),
    Column("quota_bytes", BigInteger, comment="most bytes of file data; NULL: no limit"),
    Column("quota_inodes", BigInteger, comment="most inodes; NULL: no limit"),
    Column("used_bytes", BigInteger, nullable=False, comment="sum of inode.allocated in the bucket"),
    Column("used_inodes", BigInteger, nullable=False, comment="inodes in the bucket, its root included"),
    Column("policy", Text, nullable=False, comment="placement and TTL policy, JSON"),
    comment="virtual buckets: the top-level directories and their policies",
)

location = Table(
    "location",
    metadata,
    Column("id", String(128), primary_key=True, comment="name, as in the configuration"),
    Column("state", String(16), nullable=False, comment="active or draining"),
    Column("added_ns", BigInteger, nullable=False, comment="when it was first used"),
    comment="locations this namespace has ever stored bytes at",
)

ledger = Table(
    "ledger",
    metadata,
    Column("hour", BigInteger, primary_key=True, autoincrement=False, comment="hours since the Unix epoch"),
    Column(
        "bucket",
        String(32),
        primary_key=True,
        comment="ino of the bucket as text; empty: the namespace itself",
    ),
    Column("location", String(128), primary_key=True, comment="whose price applies"),
    Column("kind", String(16), primary_key=True, comment="see policy.ledger.Kind"),
    Column("dst", String(128), primary_key=True, comment="egress: where the bytes went; else empty"),
    Column("requests", BigInteger, nullable=False, comment="how many requests"),
    Column("amount", Text, nullable=False, comment="bytes; storage: byte-milliseconds; past 64 bits: text"),
    comment="what was asked of locations and kept there, counted by the hour; priced when it is read",
    sqlite_with_rowid=False,
)

memory = Table(
    "memory",
    metadata,
    Column("bucket", BigInteger, primary_key=True, autoincrement=False, comment="ino of the bucket"),
    Column("region", String(128), primary_key=True, comment="where the reads came from"),
    Column("state", LargeBinary, nullable=False, comment="policy.ttl.RegionMemory, some kilobytes"),
    comment="what the TTL rules have learned of the gaps between reads",
    sqlite_with_rowid=False,
)

trail = Table(
    "trail",
    metadata,
    Column("object", BigInteger, primary_key=True, autoincrement=False, comment="a physical object"),
    Column("region", String(128), primary_key=True, comment="where it was read"),
    Column("state", Text, nullable=False, comment="fields of policy.ttl.Trail, JSON"),
    comment="the last read of an object in a region, kept while a TTL rule needs it",
    sqlite_with_rowid=False,
)

follow = Table(
    "follow",
    metadata,
    Column("bucket", BigInteger, primary_key=True, autoincrement=False, comment="ino of the bucket"),
    Column("kind", String(8), primary_key=True, comment="import or export"),
    Column("location", String(128), primary_key=True, comment="where the plain objects are"),
    Column("prefix", LargeBinary, primary_key=True, comment="of their keys, UTF-8; empty or ends in /"),
    Column("settings", Text, nullable=False, comment="fields of namespace.follows.Settings, JSON"),
    comment="imports and exports; whether they go on by themselves is in the settings",
)

imported = Table(
    "imported",
    metadata,
    Column("bucket", BigInteger, primary_key=True, autoincrement=False, comment="ino of the bucket"),
    Column("key", LargeBinary, primary_key=True, comment="key behind the import's prefix, UTF-8"),
    Column("ino", BigInteger, nullable=False, comment="what it became; keys that end in /: a directory"),
    Column("object", BigInteger, nullable=False, comment="physical object; 0: it is empty"),
    Column("etag", Text, nullable=False, comment="version tag of what was imported"),
    comment="foreign objects that were imported; stays when the file is removed here, so that it does not return",
    sqlite_with_rowid=False,
)

exported = Table(
    "exported",
    metadata,
    Column("bucket", BigInteger, primary_key=True, autoincrement=False, comment="ino of the bucket"),
    Column("location", String(128), primary_key=True, comment="where the plain object is"),
    Column("prefix", LargeBinary, primary_key=True, comment="of the export, as in follow"),
    Column("path", LargeBinary, primary_key=True, comment="in the bucket, without a leading /"),
    Column("ino", BigInteger, nullable=False, comment="the file as it was exported"),
    Column("mtime_ns", BigInteger, nullable=False, comment="its mtime then"),
    Column("size", BigInteger, nullable=False, comment="its size then"),
    Column("etag", Text, nullable=False, comment="version tag of the plain object"),
    comment="plain objects that an export wrote: what is unchanged is not written again",
    sqlite_with_rowid=False,
)

Index("exported_ino", exported.c.ino)
pin = Table(
    "pin",
    metadata,
    Column(
        "ino",
        BigInteger,
        primary_key=True,
        autoincrement=False,
        comment="a file, or a directory and all below it; negative: let go though one above is pinned; gone with its inode",
    ),
    comment="files whose objects stay in this mount's cache, and whose replicas are never dropped",
)

Index(
    "object_garbage", object_.c.bucket, sqlite_where=object_.c.live == 0, postgresql_where=object_.c.live == 0
)
Index("replica_state", replica.c.location, replica.c.state)
Index(
    "replica_expiry",
    replica.c.expires_ns,
    sqlite_where=replica.c.expires_ns.is_not(None),
    postgresql_where=replica.c.expires_ns.is_not(None),
)
