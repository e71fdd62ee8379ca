using System.CommandLine;
using System.Globalization;
using System.Runtime.InteropServices;
using FramePin.Benchmarks;

var rounds = new Option<int>("--rounds")
{
    Description = "Rounds of each measurement.",
    DefaultValueFactory = _ => 101
};
var save = new Option<string?>("--save") { Description = "Also write the results to this file." };
var core = new Command("core", "get_vaddr_frames and put beside the kernel's own pin, in one run.") { rounds, save };
core.SetAction(parsed => Print(parsed.GetValue(save), CoreTable(CorePins.Run(parsed.GetValue(rounds)))));
var wire = new Command(
    "wire", "Pin against an empty call, the stream against unary calls, on one connection.") { rounds, save };
wire.SetAction(async (parsed, _) =>
{
    var (pin, stream, local) = await WirePins.RunAsync(Math.Max(parsed.GetValue(rounds), 20) * 100);
    Print(parsed.GetValue(save),
    [
        Line(
            $"{pin.What}: {pin.Microseconds:F1} us, empty call {pin.EmptyMicroseconds:F1} us, ratio {pin.Ratio:F3} (wanted: at most 1.2)"),
        Line(
            $"pin + unpin pairs of one page: unary {stream.UnaryPairsPerSecond:F0}/s, stream {stream.StreamPairsPerSecond:F0}/s, ratio {stream.Ratio:F1} (wanted: at least 20)"),
        Line(
            $"an empty message on a stream, there and back: gRPC {local.GrpcMicroseconds:F1} us, local call {local.LocalMicroseconds:F1} us, ratio {local.Ratio:F2}"),
    ]);
});
var frames = new Option<int>("--frames") { Description = "Frames of each stream.", DefaultValueFactory = _ => 150 };
var drivers = new Command(
    "drivers",
    "Frames from a driver's process to an application's: the daemon's time, and handover against copies.") { rounds,
    frames, save };
drivers.SetAction(async (parsed, _) => Print(
    parsed.GetValue(save), await DriverFrames.RunAsync(
        parsed.GetValue(frames), Math.Max(parsed.GetValue(rounds), 20) * 10)));
var micro = new Command("micro", "Pin and unpin by BenchmarkDotNet, with allocations.");
micro.SetAction(_ => BenchmarkDotNet.Running.BenchmarkRunner.Run<MicroPins>());
var root = new RootCommand(
    "Benchmarks of FramePin: ratios in one run, since machines are noisy.\n\nExample:\n  dotnet run -c Release --project tests/Benchmarks -- core")
{
    core, wire, drivers, micro,
};
return await root.Parse(args).InvokeAsync();

static string Line(FormattableString text) => text.ToString(CultureInfo.InvariantCulture);

static IEnumerable<string> CoreTable(IEnumerable<CoreRow> rows)
{
    yield return "ns a page; kernel = io_uring REGISTER_BUFFERS and UNREGISTER_BUFFERS; ratio = FramePin / kernel";
    yield return "memory             pages   kernel pin      pin  ratio   kernel unpin    unpin  ratio  allocated";
    foreach (var row in rows)
        yield return Line(
            $"{row.Memory,-15} {row.Pages,8} {row.KernelPin,12:F3} {row.Pin,8:F3} {row.PinRatio,6:F3} {row.KernelUnpin,14:F3} {row.Unpin,8:F3} {row.UnpinRatio,6:F3} {row.AllocatedBytes,8} B");
}

static void Print(string? path, IEnumerable<string> lines)
{
    var cpu = File.ReadLines("/proc/cpuinfo").FirstOrDefault(
        line => line.StartsWith("model name", StringComparison.Ordinal))?.Split(':')[1].Trim();
    var kernel = File.ReadAllText("/proc/sys/kernel/osrelease").Trim();
    var all = new List<string>
    {
        Line(
            $"{DateTime.UtcNow:yyyy-MM-dd}, {cpu}, {Environment.ProcessorCount} cores, Linux {kernel.Split('-')[0]}, {RuntimeInformation.FrameworkDescription}"),
    };
    foreach (var line in all) Console.WriteLine(line);
    foreach (var line in lines)
    {
        Console.WriteLine(line);
        all.Add(line);
    }

    if (path is not null) File.WriteAllLines(path, all);
}
