// Runs a detector that detq exported on images, with OpenVINO and OpenCV alone:
//
//     detq_detect yolov6s_int8_openvino_model image.png...
//
// It writes one JSON object per image to standard output, with the keys of `detq predict`, and
// finds the boxes that `detq predict` finds. All that it knows of the model stands in the .xml
// (rt_info): docs/interoperability.md.

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <limits>
#include <map>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <openvino/openvino.hpp>

namespace fs = std::filesystem;

constexpr size_t kMostDetections = 300;
constexpr float kClassOffset = 4096;  // so far apart, boxes of different classes never overlap

// How the network was trained to see images; the names are detq's (rt_info/detq/fit).
struct Fit {
  bool keeps_ratio, centred, rounds;
  int shrinking, enlarging, padding;
};

const std::map<std::string, Fit> kFits = {
    {"yolov6", {true, true, false, cv::INTER_AREA, cv::INTER_LINEAR, 114}},
    {"ultralytics", {true, true, true, cv::INTER_LINEAR, cv::INTER_LINEAR, 114}},
    {"corner", {true, false, false, cv::INTER_LINEAR, cv::INTER_LINEAR, 114}},
    {"corner-black", {true, false, false, cv::INTER_LINEAR, cv::INTER_LINEAR, 0}},
    {"stretch", {false, false, false, cv::INTER_LINEAR, cv::INTER_LINEAR, 0}},
    {"stretch-cubic", {false, false, false, cv::INTER_CUBIC, cv::INTER_CUBIC, 0}},
};

struct Facts {
  Fit fit;
  std::vector<std::string> labels;
  float confidence, iou;
};

struct Placed {
  cv::Mat pixels;  // uint8, BGR, of the network's size
  cv::Size resized;
  int left, top;
};

struct Detection {
  float box[4];  // x1, y1, x2, y2
  float score;
  size_t class_id;
};

fs::path graph_of(const fs::path& model) {
  if (!fs::is_directory(model)) return model;
  for (const auto& entry : fs::directory_iterator(model))
    if (entry.path().extension() == ".xml") return entry.path();
  throw std::runtime_error(model.string() + ": holds no .xml; pass a directory that detq wrote");
}

Facts facts_of(const ov::Model& model, const fs::path& path) {
  if (!model.has_rt_info("detq", "fit") || !model.has_rt_info("model_info", "model_type"))
    throw std::runtime_error(path.string() + ": does not say how images are brought to its size; "
                             "export the detector again: detq export MODEL --format openvino");
  const auto read = [&](const char* key) {
    return model.get_rt_info<std::string>("model_info", key);
  };
  Facts facts{};
  facts.fit = kFits.at(model.get_rt_info<std::string>("detq", "fit"));
  facts.confidence = std::stof(read("confidence_threshold"));
  facts.iou = std::stof(read("iou_threshold"));
  std::istringstream labels(read("labels"));
  for (std::string label; labels >> label;) facts.labels.push_back(label);
  return facts;
}

// The network reads uint8 pixels in OpenCV's order: what is done to them becomes part of it.
ov::CompiledModel compiled(ov::Core& core, const std::shared_ptr<ov::Model>& model) {
  ov::preprocess::PrePostProcessor steps(model);
  auto& image = steps.input();
  image.tensor()
      .set_element_type(ov::element::u8)
      .set_layout("NHWC")
      .set_color_format(ov::preprocess::ColorFormat::BGR);
  image.model().set_layout("NCHW");
  image.preprocess()
      .convert_element_type(ov::element::f32)
      .convert_color(ov::preprocess::ColorFormat::RGB)
      .scale(255.0F);
  return core.compile_model(steps.build(), "CPU",
                            ov::hint::inference_precision(ov::element::f32),
                            ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
}

// Sizes are computed in double, as detq does: one pixel more or less would move every box.
Placed place(const cv::Mat& image, cv::Size size, const Fit& fit) {
  const double ratio = std::min(static_cast<double>(size.height) / image.rows,
                                static_cast<double>(size.width) / image.cols);
  const auto whole = [&](int side) {
    const double wanted = side * ratio;  // nearbyint: a half to the even side
    return std::max(static_cast<int>(fit.rounds ? std::nearbyint(wanted) : wanted), 1);
  };
  Placed placed{};
  placed.resized = fit.keeps_ratio ? cv::Size(whole(image.cols), whole(image.rows)) : size;
  const cv::Size free = size - placed.resized;
  placed.left = fit.centred ? free.width / 2 : 0;
  placed.top = fit.centred ? free.height / 2 : 0;
  cv::Mat resized = image;
  if (placed.resized != image.size())
    cv::resize(image, resized, placed.resized, 0, 0, ratio < 1 ? fit.shrinking : fit.enlarging);
  cv::copyMakeBorder(resized, placed.pixels, placed.top, free.height - placed.top, placed.left,
                     free.width - placed.left, cv::BORDER_CONSTANT, cv::Scalar::all(fit.padding));
  return placed;
}

float overlap(const Detection& a, const Detection& b) {
  const float shift_a = a.class_id * kClassOffset, shift_b = b.class_id * kClassOffset;
  const auto area = [](const Detection& d) {
    return (d.box[2] - d.box[0]) * (d.box[3] - d.box[1]);
  };
  const float width = std::min(a.box[2] + shift_a, b.box[2] + shift_b) -
                      std::max(a.box[0] + shift_a, b.box[0] + shift_b);
  const float height = std::min(a.box[3], b.box[3]) - std::max(a.box[1], b.box[1]);
  const float both = std::max(width, 0.F) * std::max(height, 0.F);
  return both / (area(a) + area(b) - both);
}

// predictions: [4 + classes, places] centre x, centre y, width, height in input pixels, then scores
std::vector<Detection> candidates(const ov::Tensor& predictions, const Facts& facts) {
  const size_t classes = predictions.get_shape()[1] - 4, places = predictions.get_shape()[2];
  const float* data = predictions.data<const float>();
  const bool end_to_end = facts.iou >= 1;  // a place may be several objects, nothing competes
  std::vector<Detection> found;
  for (size_t at = 0; at < places; ++at) {
    const auto value = [&](size_t row) { return data[row * places + at]; };
    const float half_w = value(2) / 2, half_h = value(3) / 2;
    Detection detection{{value(0) - half_w, value(1) - half_h, value(0) + half_w,
                         value(1) + half_h}, facts.confidence, classes};
    for (size_t c = 0; c < classes; ++c) {
      if (value(4 + c) <= (end_to_end ? facts.confidence : detection.score)) continue;
      detection.score = value(4 + c);
      detection.class_id = c;
      if (end_to_end) found.push_back(detection);
    }
    if (!end_to_end && detection.class_id < classes) found.push_back(detection);
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.score > b.score; });
  return found;
}

std::vector<Detection> suppressed(const std::vector<Detection>& found, float iou) {
  std::vector<Detection> kept;
  for (const auto& each : found) {
    if (kept.size() == kMostDetections) break;
    const bool lost = iou < 1 && std::any_of(kept.begin(), kept.end(), [&](const auto& better) {
      return overlap(better, each) > iou;
    });
    if (!lost) kept.push_back(each);
  }
  return kept;
}

void to_original(std::vector<Detection>& found, const Placed& placed, cv::Size original) {
  const float gain[] = {static_cast<float>(static_cast<double>(placed.resized.width) / original.width),
                        static_cast<float>(static_cast<double>(placed.resized.height) / original.height)};
  const int pad[] = {placed.left, placed.top}, limit[] = {original.width, original.height};
  for (auto& each : found)
    for (int side = 0; side < 4; ++side) {
      const int axis = side % 2;
      each.box[side] = std::clamp((each.box[side] - pad[axis]) / gain[axis], 0.F,
                                  static_cast<float>(limit[axis]));
    }
}

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') out << '\\';
    if (static_cast<unsigned char>(c) >= 0x20) out << c;
  }
  out << '"';
  return out.str();
}

void print(const std::string& name, cv::Size size, const std::vector<Detection>& found,
           const std::vector<std::string>& labels) {
  std::ostringstream boxes, scores, class_ids, names;
  for (auto* out : {&boxes, &scores}) out->precision(std::numeric_limits<float>::max_digits10);
  for (size_t i = 0; i < found.size(); ++i) {
    const char* comma = i ? ", " : "";
    const auto& [box, score, class_id] = found[i];
    boxes << comma << '[' << box[0] << ", " << box[1] << ", " << box[2] << ", " << box[3] << ']';
    scores << comma << score;
    class_ids << comma << class_id;
    names << comma << quoted(labels.at(class_id));
  }
  std::cout << "{\"id\": " << quoted(name) << ", \"width\": " << size.width
            << ", \"height\": " << size.height << ", \"boxes\": [" << boxes.str()
            << "], \"scores\": [" << scores.str() << "], \"class_ids\": [" << class_ids.str()
            << "], \"class_names\": [" << names.str() << "]}" << std::endl;
}

int run(int count, char** arguments) {
  if (count < 3) throw std::runtime_error("usage: detq_detect MODEL IMAGE...");
  const fs::path path = graph_of(arguments[1]);
  ov::Core core;
  const auto model = core.read_model(path.string());
  const Facts facts = facts_of(*model, path);
  const ov::Shape shape = model->input().get_shape();  // [1, 3, H, W]
  const cv::Size size(static_cast<int>(shape[3]), static_cast<int>(shape[2]));
  auto request = compiled(core, model).create_infer_request();
  for (int i = 2; i < count; ++i) {
    const cv::Mat image = cv::imread(arguments[i], cv::IMREAD_COLOR);
    if (image.empty()) throw std::runtime_error(std::string(arguments[i]) + ": is no readable image");
    Placed placed = place(image, size, facts.fit);
    request.set_input_tensor(ov::Tensor(
        ov::element::u8, {1, shape[2], shape[3], 3}, placed.pixels.data));
    request.infer();
    auto found = suppressed(candidates(request.get_output_tensor(), facts), facts.iou);
    to_original(found, placed, image.size());
    print(arguments[i], image.size(), found, facts.labels);
  }
  return 0;
}

int main(int count, char** arguments) {
  try {
    return run(count, arguments);
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
