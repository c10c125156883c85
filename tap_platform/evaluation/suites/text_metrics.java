import edu.cmu.meteor.scorer.MeteorConfiguration;
import edu.cmu.meteor.scorer.MeteorScorer;
import edu.cmu.meteor.scorer.MeteorStats;
import edu.cmu.meteor.util.Constants;
import edu.stanford.nlp.ling.CoreLabel;
import edu.stanford.nlp.process.CoreLabelTokenFactory;
import edu.stanford.nlp.process.PTBTokenizer;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Locale;

/**
 * Two metrics' worth of Java in one process that stays: the PTB tokenizer and METEOR.
 *
 * <p>A request is `tokenize N` or `meteor N` and N lines of UTF-8. `tokenize` answers N lines of
 * lower-case tokens. `meteor` takes a candidate and its references, with tabs between, and answers
 * N scores and that of the whole.
 */
class TextMetrics {
    private static MeteorScorer scorer;

    public static void main(String[] arguments) throws IOException {
        var in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        var out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        // The libraries talk on standard output; only answers may.
        System.setOut(System.err);
        for (var request = in.readLine(); request != null; request = in.readLine()) {
            var words = request.split(" ");
            var lines = new String[Integer.parseInt(words[1])];
            for (int i = 0; i < lines.length; i++) {
                lines[i] = in.readLine();
            }
            if (words[0].equals("tokenize")) {
                tokenize(lines, out);
            } else {
                meteor(lines, out);
            }
            out.flush();
        }
    }

    private static void tokenize(String[] lines, PrintStream out) {
        var text = new StringReader(String.join("\n", lines) + "\n");
        var tokens = new PTBTokenizer<CoreLabel>(text, new CoreLabelTokenFactory(), "tokenizeNLs");
        var line = new ArrayList<String>();
        while (tokens.hasNext()) {
            var word = tokens.next().word();
            if (word.equals(PTBTokenizer.getNewlineToken())) {
                out.println(String.join(" ", line));
                line.clear();
            } else {
                line.add(word.toLowerCase(Locale.ENGLISH));
            }
        }
    }

    private static void meteor(String[] lines, PrintStream out) {
        if (scorer == null) {
            var settings = new MeteorConfiguration();
            settings.setLanguage("en");
            settings.setNormalization(Constants.NORMALIZE_KEEP_PUNCT);
            scorer = new MeteorScorer(settings);
        }
        var sum = new MeteorStats();
        for (var line : lines) {
            var texts = line.split("\t", -1);
            var references = new ArrayList<>(Arrays.asList(texts).subList(1, texts.length));
            var stats = scorer.getMeteorStats(texts[0], references);
            scorer.computeMetrics(stats);
            sum.addStats(stats);
            out.println(stats.score);
        }
        scorer.computeMetrics(sum);
        out.println(sum.score);
    }
}
