#include "activation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gpux {
namespace {

double widen(double value) { return value; }
double widen(float value) { return value; }
double widen(Half value) { return to_double(value); }
double widen(BFloat value) { return to_double(value); }

// exp(x - largest) / sum. Subtracts the largest value, not the largest magnitude: nothing overflows,
// and the sum is at least 1.
template <class Element>
void softmax(std::size_t size, const Element* in, Element* out) {
    double largest = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < size; ++i) {
        largest = std::max(largest, widen(in[i]));
    }
    double sum = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
        sum += std::exp(widen(in[i]) - largest);
    }
    for (std::size_t i = 0; i < size; ++i) {
        round_to(std::exp(widen(in[i]) - largest) / sum, out[i]);
    }
}

// Evaluated on the side where exp() cannot overflow.
double logistic(double x) {
    if (x >= 0.0) {
        return 1.0 / (1.0 + std::exp(-x));
    }
    const double power = std::exp(x);
    return power / (1.0 + power);
}

template <class Element>
void sigmoid(std::size_t size, const Element* in, Element* out) {
    for (std::size_t i = 0; i < size; ++i) {
        round_to(logistic(widen(in[i])), out[i]);
    }
}

// Scales by a power of two, which is exact, so that the squares neither overflow nor underflow.
template <class Element>
void normalize(std::size_t size, const Element* in, Element* out) {
    double largest = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
        largest = std::max(largest, std::fabs(widen(in[i])));
    }
    const int exponent = largest > 0.0 && std::isfinite(largest) ? std::ilogb(largest) : 0;
    double sum = 0.0;
    for (std::size_t i = 0; i < size; ++i) {
        const double scaled = std::ldexp(widen(in[i]), -exponent);
        sum += scaled * scaled;
    }
    const double norm = std::sqrt(sum);
    for (std::size_t i = 0; i < size; ++i) {
        const double x = widen(in[i]);
        round_to(norm == 0.0 ? x : std::ldexp(x, -exponent) / norm, out[i]);
    }
}

template <class Element>
void activate_rows(Activation activation, std::size_t rows, std::size_t size, const void* source,
                   void* target) {
    const Element* in = static_cast<const Element*>(source);
    Element* out = static_cast<Element*>(target);
    for (std::size_t row = 0; row < rows; ++row, in += size, out += size) {
        switch (activation) {
            case Activation::softmax: softmax(size, in, out); break;
            case Activation::sigmoid: sigmoid(size, in, out); break;
            case Activation::normalize: normalize(size, in, out); break;
        }
    }
}

}  // namespace

void activate(Activation activation, Type type, std::size_t rows, std::size_t size, const void* in,
              void* out) noexcept {
    switch (type) {
        case Type::float64: activate_rows<double>(activation, rows, size, in, out); break;
        case Type::float32: activate_rows<float>(activation, rows, size, in, out); break;
        case Type::float16: activate_rows<Half>(activation, rows, size, in, out); break;
        case Type::bfloat16: activate_rows<BFloat>(activation, rows, size, in, out); break;
        default: break;  // the caller checked that it is a float type
    }
}

}  // namespace gpux
