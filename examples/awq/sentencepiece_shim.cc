// libsentencepiece for C.
#include "sentencepiece_shim.h"

#include <sentencepiece_processor.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

struct sentencepiece_model {
    sentencepiece::SentencePieceProcessor processor;
    bool strips_space = false;
};

namespace {

void set_error(char *error, size_t size, const char *text)
{
    if (size > 0) std::snprintf(error, size, "%s", text);
}

// The header says whether a dummy space is added only to those who have the protobuf classes; decoding one piece that
// begins with a space tells too.
bool probe_strips_space(const sentencepiece::SentencePieceProcessor &processor)
{
    static const std::string space = "\xE2\x96\x81";
    for (int id = 0; id < processor.GetPieceSize(); id++) {
        const std::string &piece = processor.IdToPiece(id);
        if (piece.size() <= space.size() || piece.compare(0, space.size(), space) != 0) continue;
        std::string text, plain = piece;
        for (size_t at; (at = plain.find(space)) != std::string::npos;) plain.replace(at, space.size(), " ");
        if (processor.Decode(std::vector<int>{id}, &text).ok()) return text != plain;
    }
    return false;
}

}  // namespace

extern "C" struct sentencepiece_model *sentencepiece_open(const void *bytes, size_t size, char *error,
                                                          size_t error_size)
{
    struct sentencepiece_model *model = nullptr;
    try {
        if (size > INT_MAX) {
            set_error(error, error_size, "too large");
            return nullptr;
        }
        model = new struct sentencepiece_model;
        const auto status = model->processor.LoadFromSerializedProto(
            absl::string_view(static_cast<const char *>(bytes), size));
        if (status.ok()) {
            model->strips_space = probe_strips_space(model->processor);
            return model;
        }
        set_error(error, error_size, status.ToString().c_str());
    } catch (const std::exception &failure) {
        set_error(error, error_size, failure.what());
    } catch (...) {
        set_error(error, error_size, "unknown exception");
    }
    delete model;
    return nullptr;
}

extern "C" void sentencepiece_close(struct sentencepiece_model *model)
{
    delete model;
}

extern "C" int32_t sentencepiece_vocabulary(const struct sentencepiece_model *model)
{
    return model->processor.GetPieceSize();
}

extern "C" int32_t sentencepiece_bos(const struct sentencepiece_model *model)
{
    return model->processor.bos_id();
}

extern "C" int32_t sentencepiece_eos(const struct sentencepiece_model *model)
{
    return model->processor.eos_id();
}

extern "C" bool sentencepiece_strips_space(const struct sentencepiece_model *model)
{
    return model->strips_space;
}

extern "C" bool sentencepiece_encode(const struct sentencepiece_model *model, const char *text, size_t length,
                                     int32_t **ids, size_t *count, char *error, size_t error_size)
{
    try {
        std::vector<int> encoded;
        const auto status = model->processor.Encode(absl::string_view(text, length), &encoded);
        if (!status.ok()) {
            set_error(error, error_size, status.ToString().c_str());
            return false;
        }
        int32_t *copy = static_cast<int32_t *>(std::malloc(encoded.size() * sizeof *copy + 1));
        if (copy == nullptr) {
            set_error(error, error_size, "out of memory");
            return false;
        }
        for (size_t i = 0; i < encoded.size(); i++) copy[i] = encoded[i];
        *ids = copy;
        *count = encoded.size();
        return true;
    } catch (const std::exception &failure) {
        set_error(error, error_size, failure.what());
    } catch (...) {
        set_error(error, error_size, "unknown exception");
    }
    return false;
}

extern "C" enum sentencepiece_kind sentencepiece_piece(const struct sentencepiece_model *model, int32_t id,
                                                       const char **text, size_t *length)
{
    const std::string &piece = model->processor.IdToPiece(id);
    *text = piece.data();
    *length = piece.size();
    if (model->processor.IsControl(id)) return PIECE_CONTROL;
    if (model->processor.IsUnknown(id)) return PIECE_UNKNOWN;
    return model->processor.IsByte(id) ? PIECE_BYTE : PIECE_TEXT;
}
