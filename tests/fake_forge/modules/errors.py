import traceback

reports = []


def report(message, *, exc_info=False):
    reports.append(message + ("\n" + traceback.format_exc() if exc_info else ""))
