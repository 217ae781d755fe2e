"""A stored body knows its key, so that it goes with it. Nothing was ever stored before."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("usage", "0002_partitions")]

    operations = [
        migrations.AddField(
            model_name="storedbody",
            name="key_id",
            field=models.CharField(db_index=True, default="", max_length=40),
            preserve_default=False,
        ),
    ]
