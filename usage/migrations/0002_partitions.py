"""On PostgreSQL, RequestRecord becomes range-partitioned by its UUIDv7 id, with a DEFAULT partition.

The partition key is the primary key itself, so insert-if-new by call id works, retention drops whole partitions,
and Django still sees one simple key. Monthly partitions are made ahead by `usage.partitions`.
"""

from django.db import migrations

SQL = """
ALTER TABLE usage_requestrecord RENAME TO usage_requestrecord_plain;
CREATE TABLE usage_requestrecord (LIKE usage_requestrecord_plain INCLUDING DEFAULTS) PARTITION BY RANGE (id);
DROP TABLE usage_requestrecord_plain;
ALTER TABLE usage_requestrecord ADD PRIMARY KEY (id);
CREATE INDEX record_by_organization ON usage_requestrecord (organization_id, id DESC);
CREATE INDEX record_by_key ON usage_requestrecord (key_id, id DESC);
CREATE TABLE usage_requestrecord_default PARTITION OF usage_requestrecord DEFAULT;
"""


def partition(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(SQL)


class Migration(migrations.Migration):
    dependencies = [("usage", "0001_initial")]
    operations = [migrations.RunPython(partition, migrations.RunPython.noop)]
