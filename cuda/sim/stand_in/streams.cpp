// streams.cpp: streams, events, captures and graphs of the stand-in driver.
#include "state.h"

extern "C" {

int cuStreamCreate(void** stream, u32) {
    Lock lock(everything);
    if (const Code code = ready("cuStreamCreate")) {
        return code;
    }
    streams.insert(*stream = new Stream{current(), {}, nullptr, false});
    return OK;
}

int cuStreamDestroy_v2(void* handle) {
    Lock lock(everything);
    Stream* stream = static_cast<Stream*>(handle);
    if (!streams.count(handle)) {
        return refuse(INVALID_HANDLE, "cuStreamDestroy of no stream");
    }
    drain(stream);
    streams.erase(handle);
    delete stream;
    return OK;
}

int cuStreamSynchronize(void* handle) {
    Lock lock(everything);
    if (const Code code = ready_to_wait("cuStreamSynchronize")) {
        return code;
    }
    Stream* stream = stream_of(handle);
    return stream ? drain(stream) : refuse(INVALID_HANDLE, "cuStreamSynchronize of another context's stream");
}

int cuStreamIsCapturing(void* handle, int* status) {
    Lock lock(everything);
    if (const Code code = ready("cuStreamIsCapturing")) {
        return code;
    }
    Stream* stream = stream_of(handle);
    *status = stream && stream->capture ? (stream->is_invalid ? 2 : 1) : 0;
    return stream ? OK : INVALID_HANDLE;
}

int cuStreamBeginCapture_v2(void* handle, int) {
    Lock lock(everything);
    if (const Code code = ready("cuStreamBeginCapture")) {
        return code;
    }
    Stream* stream = u64(handle) > 1 ? stream_of(handle) : nullptr;
    if (!stream || stream->capture) {
        return refuse(CAPTURE_UNSUPPORTED, "a capture of the legacy stream, or of one that is captured");
    }
    stream->capture = std::make_shared<Graph>();
    stream->is_invalid = false;
    captures++;
    return OK;
}

int cuStreamEndCapture(void* handle, void** graph) {
    Lock lock(everything);
    *graph = nullptr;
    Stream* stream = stream_of(handle);
    if (!stream || !stream->capture) {
        return refuse(INVALID_VALUE, "cuStreamEndCapture without a capture");
    }
    captures--;
    const std::shared_ptr<Graph> captured = std::move(stream->capture);
    if (stream->is_invalid) {
        return refuse(CAPTURE_INVALIDATED, "the capture was invalidated");
    }
    graphs.insert(*graph = new Graph(*captured));
    return OK;
}

int cuGraphInstantiateWithFlags(void** executable, void* graph, u64) {
    Lock lock(everything);
    if (!graphs.count(graph)) {
        return refuse(INVALID_VALUE, "cuGraphInstantiate of no graph");
    }
    graphs.insert(*executable = new Graph(*static_cast<Graph*>(graph)));
    return OK;
}

int cuGraphLaunch(void* executable, void* stream) {
    Lock lock(everything);
    if (!graphs.count(executable)) {
        return refuse(INVALID_VALUE, "cuGraphLaunch of no graph");
    }
    for (const Work& work : static_cast<Graph*>(executable)->work) {
        if (const Code code = put("cuGraphLaunch", stream, work)) {
            return code;
        }
    }
    return OK;
}

int cuGraphDestroy(void* graph) {
    Lock lock(everything);
    if (graphs.erase(graph) == 0) {
        return refuse(INVALID_VALUE, "a graph was destroyed that there is not");
    }
    delete static_cast<Graph*>(graph);
    return OK;
}

int cuGraphExecDestroy(void* executable) {
    return cuGraphDestroy(executable);
}

int cuEventCreate(void** event, u32) {
    Lock lock(everything);
    if (const Code code = ready("cuEventCreate")) {
        return code;
    }
    events.insert(*event = new Event{current()});
    return OK;
}

// Events stay until the process ends: work that is not yet done may name them.
int cuEventDestroy_v2(void* event) {
    Lock lock(everything);
    return events.erase(event) ? OK : refuse(INVALID_HANDLE, "cuEventDestroy of no event");
}

int cuEventRecord(void* handle, void* stream) {
    Lock lock(everything);
    if (const Code code = ready("cuEventRecord")) {
        return code;
    }
    Event* event = static_cast<Event*>(handle);
    if (!is_of_context(events, event)) {
        return refuse(INVALID_HANDLE, "cuEventRecord of another context's event");
    }
    event->stream = stream_of(stream);
    event->is_done = false;
    return put("cuEventRecord", stream, [event] {
        event->time = std::chrono::steady_clock::now();
        event->is_done = true;
        return OK;
    }, true);
}

int cuEventSynchronize(void* handle) {
    Lock lock(everything);
    if (const Code code = ready_to_wait("cuEventSynchronize")) {
        return code;
    }
    Event* event = static_cast<Event*>(handle);
    return event->stream && !event->is_done ? drain(event->stream) : OK;
}

int cuStreamWaitEvent(void* stream, void* handle, u32) {
    Lock lock(everything);
    Event* event = static_cast<Event*>(handle);
    return put("cuStreamWaitEvent", stream, [event] {
        // One that was never recorded is no wait.
        return event->is_done || !event->stream ? OK : drain(event->stream);
    });
}

int cuEventElapsedTime_v2(f32* milliseconds, void* start, void* end) {
    const Event *first = static_cast<Event*>(start), *second = static_cast<Event*>(end);
    if (!first->is_done || !second->is_done) {
        return NOT_READY;
    }
    *milliseconds = std::chrono::duration<f32, std::milli>(second->time - first->time).count();
    return OK;
}

int cuEventElapsedTime(f32* milliseconds, void* start, void* end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}

} // extern "C"
