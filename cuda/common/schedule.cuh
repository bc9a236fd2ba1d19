// schedule.cuh: which items a workgroup takes, one after the other: the producer says, consumers follow. After ring.cuh and
// sight.cuh.
//
//   producer    turn 0 | its K and V .... | turn 1 | its K and V .... | ... | pause | what was put off, with care | end
//   consumers     turn 0: queries, products ..., state, merge | turn 1 ....
//
// The grid has as many workgroups as run at once. Each begins with an item of its own and takes the next that nobody has,
// of a list that begins with the longest; who takes the last ticket puts the counter back to 0, so that a launch can be
// repeated. K and V of the next item are on their way while consumers finish this one.
// A turn is in two places, where it costs no registers: as the producer has said it, and as consumers have taken it.

// No item.
constexpr u32 NONE = ~0u;

// What to do with an item: attend; attend with care; write rows that see nothing. Without one: take note, leave.
constexpr u32 PASS = 0, CAREFUL = 1, NOTHING_SEEN = 2, PAUSE = 3, END = 4;

struct Turn {
    // Turns before it.
    u32 index;
    u32 kind;
    // Of the item's share, among those of the launch.
    u32 number;
    // Whether any output shows NaN or an infinity: of the turn that consumers have taken.
    u32 is_unbounded;
    Item item;
};

struct Schedule {
    Turn said, taken;
    // `said` is there; `said` is no longer needed, by consumers and the producer's warps.
    Mbarrier full, empty;
    // The last item that was put off, or NONE; `args.put_off` has the one before each.
    u32 put_off;
};

// By one thread.
DEVICE void init_schedule(Schedule& schedule) {
    mbarrier_init(schedule.full, 1);
    mbarrier_init(schedule.empty, 1 + WARPGROUP / 32);
    schedule.taken.index = NONE;
    schedule.said.kind = PASS;
    schedule.said.is_unbounded = 0;
    schedule.put_off = NONE;
}

// The workgroup's next item, or one behind the last, once.
DEVICE u32 next_number(u32 index, const BulkArgs& args) {
    if (index == 0) {
        return blockIdx.x;
    }
    const u32 ticket = atomicAdd(args.tickets, 1u);
    if (ticket == args.num_shares - 1) {
        atomicExch(args.tickets, 0u);
    }
    return gridDim.x + ticket;
}

// Says turn `index`, when the one before is no longer needed. By one thread of the producer.
DEVICE void say(Schedule& schedule, u32 index, const BulkArgs& args) {
    mbarrier_wait(schedule.empty, index % 2 ^ 1);
    Turn& turn = schedule.said;
    if (turn.kind == PASS || turn.kind == NOTHING_SEEN) {
        const u32 number = next_number(index, args);
        turn.kind = number < args.num_shares ? PASS : PAUSE;
        turn.number = number;
    } else {
        // Consumers have taken the pause, so that nothing is put off any more.
        const u32 number = turn.kind == PAUSE ? schedule.put_off : args.put_off[turn.number];
        turn.kind = number == NONE ? END : CAREFUL;
        turn.number = number;
    }
    if (turn.kind <= CAREFUL) {
        turn.item = item_of(args, turn.number);
        const bool has_keys = turn.item.first_run != turn.item.last_run;
        if (!has_keys || have_ended(args, turn.item.rows, turn.item.num_queries / GROUP)) {
            turn.kind = NOTHING_SEEN;
        }
    }
    turn.index = index;
    mbarrier_arrive(schedule.full);
}

// Takes the turn that was said last. By one thread of the consumers.
DEVICE void take(Schedule& schedule) {
    mbarrier_wait(schedule.full, (schedule.taken.index + 1) % 2);
    schedule.taken = schedule.said;
    mbarrier_arrive(schedule.empty);
}

// All turns of the workgroup, and their K and V. By the producer.
DEVICE void produce_all(Schedule& schedule, Ring& ring, const BulkArgs& args) {
    const Turn& turn = schedule.said;
    u32 tile = 0;
#pragma unroll 1
    for (u32 index = 0;;) {
        if (thread_of_tile() % WARPGROUP == 0) {
            say(schedule, index, args);
        }
        mbarrier_wait(schedule.full, index % 2);
        if (turn.kind == END) {
            break;
        }
        if (turn.kind <= CAREFUL) {
            tile = produce(ring, tile, turn.item, args);
        }
        index = turn.index + 1;
        __syncwarp();
        release(schedule.empty);
    }
    // Who leaves has nothing on its way.
    copy_async_commit();
    copy_async_wait<0>();
}
