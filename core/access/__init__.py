"""Rights: identities and roles, the installation's policy, and the guard that actions ask.

`identity` says who somebody is, reads the `[access]` table and gives roles by it; `guard` decides over each
action and tells the audit log. Whatever changes something calls `guard.authorise`; pages only follow.
"""
