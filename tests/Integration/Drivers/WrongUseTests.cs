using System.Collections.Concurrent;
using FramePin.Drivers;
using FramePin.Drivers.Vivid;
using Xunit;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Answers of the real vivid on kernels 6.1 and 6.12 to wrong and unusual uses, capture and output, with one plane and
/// with two: `Data/oracle/wrong-uses.tsv`, read whole. A row is answered as text, or is listed with its reason.
/// </summary>
public sealed class WrongUseTests(DaemonFixture daemon, ITestOutputHelper output) : IClassFixture<DaemonFixture>
{
    /// <summary>Rows that no call here can express.</summary>
    private static readonly Dictionary<string, string> NotExpressible = new(StringComparer.Ordinal)
    {
        ["S_INPUT 1 with buffers allocated"] = "no inputs",
        ["S_INPUT 99"] = "no inputs",
        ["S_OUTPUT 1 with buffers allocated"] = "no outputs",
        ["S_OUTPUT 99"] = "no outputs",
        ["REQBUFS after a forked child closed its copy"] = "files have no copies",
        ["SUBSCRIBE_EVENT type 99"] = "no events",
        ["DQEVENT with none pending (nonblocking)"] = "no events",
        ["S_EXT_CTRLS brightness -5"] = "no extended controls",
        ["S_EXT_CTRLS unknown id"] = "no extended controls",
    };

    public static TheoryData<string> Columns => [.. Lines()[0].Skip(1)];

    [Fact]
    public void Every_row_is_answered_or_listed()
    {
        var rows = Lines().Skip(1).Select(line => line[0]).ToList();
        Assert.Equal(113, rows.Count);
        Assert.Equal(9, NotExpressible.Count);
        Assert.Empty(NotExpressible.Keys.Except(rows));
        Assert.Empty(NotExpressible.Keys.Intersect(WrongUses.Answers.Keys));
        Assert.Equal(rows.Except(NotExpressible.Keys).Order(), WrongUses.Answers.Keys.Order());
        foreach (var (row, reason) in NotExpressible) output.WriteLine($"not expressible: {row}: {reason}");
    }

    [Theory]
    [MemberData(nameof(Columns))]
    public async Task Vivid_answers_wrong_uses_as_it_did(string column)
    {
        var lines = Lines();
        var place = Array.IndexOf(lines[0], column);
        var words = column.Split(' ');
        var time = new TickingTime();
        var options = new VividOptions
        {
            IsOutput = words[1] == "output",
            IsMultiplanar = words is [.., "mplane"],
            FramesPerSecond = 30,
            Time = time,
        };
        await using var rig = await VividRig.CreateAsync(daemon, words[0], options);
        await rig.Device.SetFormatAsync(options.IsMultiplanar ? "NM16" : "YUYV", 320, 180);
        rig.Lab.Anon(WrongUses.At, 256);
        var wrong = new ConcurrentQueue<string>();
        var answered = 0;
        foreach (var line in lines.Skip(1).Where(line => line[place] != "-" && !NotExpressible.ContainsKey(line[0])))
        {
            await using var device = await rig.OpenAsync("video0", rig.SpaceName);
            var answer = await WrongUses.Answers[line[0]](new WrongUses(rig, device, options, time))
                .WaitAsync(TimeSpan.FromSeconds(20));
            answered++;
            if (answer != line[place]) wrong.Enqueue($"{line[0]}: {answer} instead of {line[place]}");
        }

        output.WriteLine($"{answered} rows answered");
        Assert.Empty(wrong);
    }

    private static string[][] Lines() =>
        [.. File.ReadAllLines(Path.Combine(AppContext.BaseDirectory, "Data", "oracle", "wrong-uses.tsv")).Select(
            line => line.Split('\t'))];
}
