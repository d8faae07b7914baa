"""What programs and the page in the browser talk to: routes, jobs and the app that serves them.

`routes` are those that Forge's API has as well. Everything here is handed its engine; nothing imports a host.
"""
