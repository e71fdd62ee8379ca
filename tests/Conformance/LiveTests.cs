using System.Globalization;
using FramePin.Conformance;
using FramePin.Conformance.Kernel;
using Xunit;

namespace FramePin.Tests.Conformance;

/// <summary>The kernel that runs the tests, asked step by step.</summary>
public sealed class LiveTests(ITestOutputHelper output)
{
    private const int Steps = 20_000;

    /// <summary>
    /// The same steps in every run, so that a red one means that this tree has changed, or that the machine's kernel is
    /// another: new steps are what framepin conformance is for. FRAMEPIN_SEED names others.
    /// </summary>
    private static int Seed(int usual) =>
        int.TryParse(Environment.GetEnvironmentVariable("FRAMEPIN_SEED"), CultureInfo.InvariantCulture, out var given)
            ? given
            : usual;

    [Fact]
    public void The_running_kernel_and_FramePin_agree_on_random_scripts()
    {
        var seed = Seed(1);
        output.WriteLine($"seed {seed}; FRAMEPIN_SEED={seed} repeats it");
        var options = new RunOptions { Seed = seed, Steps = Steps, MaxDivergences = 3, ReplaysLogs = true };
        var report = Runner.Run(options);
        var page = report.ToMarkdown();
        File.WriteAllText(Path.Combine(AppContext.BaseDirectory, "conformance.md"), page);
        output.WriteLine(page);
        Assert.True(report.Divergences.Count == 0, report.DescribeDifferences());
        Assert.True(report.DeviationHits.Values.Sum() * 1000L < report.Steps, "known deviations cover too much");
        Assert.True(report.Unrepeated.Count <= 2, report.DescribeDifferences());
        Assert.Equal(Steps, report.Steps);
    }

    [Fact]
    public void An_ordinary_user_compares_what_he_may_see()
    {
        const int nobody = 65534;
        if (!Environment.IsPrivilegedProcess)
        {
            output.WriteLine("not root: the other test has compared as an ordinary user already");
            return;
        }

        var seed = Seed(2);
        output.WriteLine($"seed {seed}");
        var report = Runner.Run(new RunOptions { Seed = seed, Steps = Steps / 2, MaxDivergences = 3, AsUser = nobody });
        output.WriteLine(report.ToMarkdown());
        Assert.False(report.IsPrivileged);
        Assert.True(report.Divergences.Count == 0, report.DescribeDifferences());
        Assert.Equal(Steps / 2, report.Steps);
    }

    [Fact]
    public void With_swap_what_goes_out_comes_back_alike()
    {
        var seed = Seed(3);
        output.WriteLine($"seed {seed}");
        ConformanceReport report;
        try
        {
            report = Runner.Run(new RunOptions { Seed = seed, Steps = Steps / 2, MaxDivergences = 3, WithSwap = true });
        }
        catch (SwapUnavailableException exception)
        {
            output.WriteLine($"not compared with swap: {exception.Message}");
            return;
        }

        output.WriteLine(report.ToMarkdown());
        Assert.True(report.WithSwap);
        Assert.True(report.Divergences.Count == 0, report.DescribeDifferences());
        Assert.True(report.Unrepeated.Count <= 2, report.DescribeDifferences());
        Assert.Equal(Steps / 2, report.Steps);
    }

    [Fact]
    public void The_list_of_deviations_is_short() => Assert.InRange(Deviations.All.Count, 0, 10);

    public static TheoryData<string> Regressions =>
        [.. Directory.EnumerateFiles(Path.Combine(AppContext.BaseDirectory, "Data", "regressions"), "*.txt")
            .Select(Path.GetFileNameWithoutExtension).OfType<string>().Order(StringComparer.Ordinal)];

    [Theory]
    [MemberData(nameof(Regressions))]
    public void A_difference_that_was_closed_stays_closed(string name)
    {
        var text = File.ReadAllText(Path.Combine(AppContext.BaseDirectory, "Data", "regressions", name + ".txt"));
        var regression = Regression.Parse(text);
        Assert.Equal(text, regression.Format());
        Assert.Null(regression.Check());
    }
}
