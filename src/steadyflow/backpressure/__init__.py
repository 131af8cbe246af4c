"""
Flow control: what a pipeline does that gets more than its consumer takes, and how that is seen.

    rules/       what is done; plain values
    reading      what one look at a pipeline found
    verdict      what a detector says of it
    averages     an average that is quick with bad news, and slow with good
    detection/   the detectors; pure functions of readings, without a clock or a thread
    ladder       the steps of `Adaptive`, and when it takes them
    room         how much may wait
    pacing       how fast sources send that can wait
    service_rate what a consumer takes
"""
