# Compiles llm-dit on a Mac, with Metal on Apple silicon:
#
#   brew install --HEAD --build-from-source deploy/homebrew/llm-dit.rb
#   brew services start llm-dit        # http://127.0.0.1:7860
#
# Never run: this formula was written without a Mac.
class LlmDit < Formula
  desc "Text-to-image server for Z-Image"
  homepage "https://github.com/llm-dit/llm-dit"
  license any_of: ["MIT", "Apache-2.0"]
  head "https://github.com/llm-dit/llm-dit.git", branch: "main"

  depends_on "rust" => :build

  def install
    features = ["embed-demo-model"]
    features << "metal" if OS.mac? && Hardware::CPU.arm?
    system "cargo", "install", *std_cargo_args(path: "cli"), "--features", features.join(",")
    %w[encoder-service diffusion-service gateway].each do |service|
      bin.install_symlink "llm-dit" => service
    end
    system bin/"llm-dit", "man", "--output-dir", man1
    generate_completions_from_executable(bin/"llm-dit", "completions")
  end

  service do
    run [opt_bin/"llm-dit", "serve"]
    keep_alive true
    log_path var/"log/llm-dit.log"
    error_log_path var/"log/llm-dit.log"
  end

  test do
    system bin/"llm-dit", "generate", "a red apple", "--device", "cpu", "--output", testpath/"apple.png"
    assert_equal "\x89PNG".b, (testpath/"apple.png").binread(4)
  end
end
