// lifetime.wgsl: key k of a span is visible to query q iff birth[k] <= q < death[k]. Births and deaths ascend along a
// span, so what a query sees of a span is an interval. Everything in slots of the view.

fn floor_div(a: i32, b: i32) -> i32 {
    let quotient = a / b;
    return select(quotient, quotient - 1, a % b < 0);
}

// The slots of span [span.x, span.y) that query q sees, by the rule at word `rule` of the tables.
fn seen_slots(rule: u32, q: i32, span: vec2<i32>) -> vec2<i32> {
    let a = bitcast<i32>(tables[rule + 1u]);
    let b = bitcast<i32>(tables[rule + 2u]);
    let c = bitcast<i32>(tables[rule + 3u]);
    let d = bitcast<i32>(tables[rule + 5u]);
    var last = q + 1; // birth: causal
    switch tables[rule] {
        case 1u { last = select(span.x, span.y, span.x <= q); } // start of the span
        case 2u { last = select(span.x, span.y, a <= q); } // slot a
        case 3u { // floor(k * a / b) + c
            if a == 0 {
                last = select(span.x, span.y, c <= q);
            } else {
                last = floor_div((q - c + 1) * b + a - 1, a);
            }
        }
        default {}
    }
    var first = span.x; // death: never
    switch tables[rule + 4u] {
        case 1u { first = select(span.y, span.x, q < span.y); } // end of the span
        case 2u { first = q - d + 1; } // k + d
        case 3u { first = select(q - d + 1, span.x, q < span.y); } // the later of both
        case 4u { first = floor_div(q, d) * d; } // end of the chunk of d
        case 5u { first = select(span.y, span.x, q < d); } // slot d
        default {}
    }
    return clamp(vec2<i32>(first, last), vec2<i32>(span.x), vec2<i32>(span.y));
}
