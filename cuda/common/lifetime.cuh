// lifetime.cuh: key k of a span is visible to query q iff birth[k] <= q < death[k]. Births and deaths ascend along a
// span, so what a query sees of a span is an interval. Everything in slots of the view. After prelude.cuh.

// Slots [begin, end).
struct Slots {
    i32 begin, end;
};

DEVICE i32 floor_div(i32 a, i32 b) {
    const i32 quotient = a / b;
    return a % b < 0 ? quotient - 1 : quotient;
}

DEVICE i32 clamped(i32 x, Slots span) {
    return min(max(x, span.begin), span.end);
}

// The slots of `span` that query `q` sees, by a rule [birth kind, 3 operands, death kind, operand, 0, 0].
DEVICE Slots seen_slots(const u32* rule, i32 q, Slots span) {
    const i32 a = i32(rule[1]), b = i32(rule[2]), c = i32(rule[3]), d = i32(rule[5]);
    i32 last = q + 1; // birth: causal
    switch (rule[0]) {
    case 1: // start of the span
        last = span.begin <= q ? span.end : span.begin;
        break;
    case 2: // slot a
        last = a <= q ? span.end : span.begin;
        break;
    case 3: // floor(k * a / b) + c
        if (a == 0) {
            last = c <= q ? span.end : span.begin;
        } else {
            last = floor_div((q - c + 1) * b + a - 1, a);
        }
        break;
    default:
        break;
    }
    i32 first = span.begin; // death: never
    switch (rule[4]) {
    case 1: // end of the span
        first = q < span.end ? span.begin : span.end;
        break;
    case 2: // k + d
        first = q - d + 1;
        break;
    case 3: // the later of both
        first = q < span.end ? span.begin : q - d + 1;
        break;
    case 4: // end of the chunk of d
        first = floor_div(q, d) * d;
        break;
    case 5: // slot d
        first = q < d ? span.begin : span.end;
        break;
    default:
        break;
    }
    return Slots{clamped(first, span), clamped(last, span)};
}
