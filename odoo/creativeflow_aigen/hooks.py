"""What Odoo 18 and 19 keep in different places and no data file can say for both."""

from odoo.release import version_info


def name_the_groups(env):
    """Show user and manager as one choice on the form of a user: a category in 18, a privilege in 19."""
    groups = env.ref("creativeflow_aigen.group_user") | env.ref("creativeflow_aigen.group_manager")
    category = env.ref("creativeflow_aigen.category")
    if version_info[0] < 19:
        groups.category_id = category
    else:
        groups.privilege_id = env["res.groups.privilege"].create(
            {"name": "CreativeFlow", "category_id": category.id, "sequence": 100}
        )
