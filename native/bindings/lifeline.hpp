// A worker process ends when its coordinator is gone: a thread without Python waits for the lifeline to close.
#pragma once

namespace steadyflow {

// Watches `descriptor` (the reading end of a pipe whose writing end only the coordinator has). When it closes, the
// process exits with status 70, whatever Python is doing.
void watch_lifeline(int descriptor);

}  // namespace steadyflow
