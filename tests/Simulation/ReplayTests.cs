using FramePin.Core.Addressing;
using FramePin.Core.Kernel;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using Xunit;

namespace FramePin.Tests.Simulation;

/// <summary>A log of commands and counts, executed on a new machine, gives the same state.</summary>
public sealed class ReplayTests
{
    [Fact]
    public void A_model_run_of_100_000_operations_replays_to_the_same_digest()
    {
        const int machines = 40;
        const int operations = 2_500;
        var seed = ModelTests.Seed;
        for (var machine = 0; machine < machines; machine++)
        {
            using var log = new MemoryStream();
            using var simulator = new Simulator(seed + machine, log: log);
            for (var i = 0; i < operations; i++)
            {
                var difference = simulator.Step(audits: i % 100 == 0);
                Assert.True(difference is null, $"seed {seed}, machine {machine}, operation {i}: {difference}");
            }

            var digest = simulator.Digest();
            Assert.True(digest == DigestOf(log), $"seed {seed}, machine {machine}: the replay ends in another state");
        }
    }

    [Fact]
    public void A_log_can_be_run_to_any_step()
    {
        var seed = ModelTests.Seed;
        using var log = new MemoryStream();
        using var simulator = new Simulator(seed, log: log);
        var marks = new List<(long Records, long Command, string Digest)>();
        for (var i = 0; i < 2_000; i++)
        {
            simulator.Step(audits: false);
            if (i % 250 != 249) continue;
            // A look at the machine lets waiting frames go, which is a record: it comes before the mark.
            var digest = simulator.Digest();
            marks.Add((simulator.Records, simulator.CommandNumber, digest));
        }

        var replay = new MachineReplay("replay", log.ToArray());
        using var machine = replay.Machine;
        var steps = 0L;
        foreach (var (records, command, expected) in marks)
        {
            for (; steps < records; steps++) Assert.True(replay.Step());
            Assert.Equal(command, machine.CommandNumber);
            Assert.True(expected == machine.Digest(), $"seed {seed}: another state after command {command}");
        }
    }

    [Fact]
    public void A_log_can_be_run_to_a_command_by_its_number()
    {
        using var log = new MemoryStream();
        using var simulator = new Simulator(ModelTests.Seed, log: log);
        for (var i = 0; i < 500; i++) simulator.Step(audits: false);
        var replay = new MachineReplay("replay", log.ToArray());
        using var machine = replay.Machine;
        replay.RunTo(simulator.CommandNumber / 2);
        Assert.Equal(simulator.CommandNumber / 2, machine.CommandNumber);
        replay.RunToEnd();
        Assert.Equal(simulator.Digest(), machine.Digest());
    }

    [Fact]
    public void A_look_between_two_records_changes_nothing_and_the_machine_goes_on_behind_the_last()
    {
        using var log = new MemoryStream();
        using var simulator = new Simulator(ModelTests.Seed, log: log);
        for (var i = 0; i < 1_000; i++) simulator.Step(audits: false);
        var replay = new MachineReplay("replay", log.ToArray());
        using var machine = replay.Machine;
        while (replay.Step()) _ = machine.Statistics();
        Assert.Equal(simulator.Digest(), machine.Digest());
        var space = new SpaceId((int)machine.Call(
            new CreateSpaceCall("more", new AddressSpaceLayout(), new TaskState())).Value);
        Assert.True(machine.Call(new BrkCall(space, new AddressSpaceLayout().StartBrk + 4096)).IsOk);
        Assert.Empty(machine.Audit());
    }

    [Fact]
    public void Logs_with_wrong_bytes_end_in_InvalidDataException_or_run()
    {
        var seed = ModelTests.Seed;
        var random = new Random(seed);
        using var log = new MemoryStream();
        using var simulator = new Simulator(seed, log: log);
        for (var i = 0; i < 120; i++) simulator.Step(audits: false);
        var whole = log.ToArray();
        for (var round = 0; round < 300; round++)
        {
            var bytes = whole.AsSpan(0, random.Next(8, whole.Length)).ToArray();
            for (var i = 0; i < 3; i++) bytes[random.Next(6, bytes.Length)] ^= (byte)(1 << random.Next(8));
            Machine? machine = null;
            try
            {
                var replay = new MachineReplay("replay", bytes);
                machine = replay.Machine;
                if (machine.Options.Memory > 1UL << 30) continue;
                for (var i = 0; i < 400 && replay.Step(); i++) { }
            }
            catch (InvalidDataException)
            {
                // Refused by name, as it must be.
            }
            catch (Exception exception)
            {
                Assert.Fail($"seed {seed}, round {round}: {exception}");
            }
            finally
            {
                machine?.Dispose();
            }
        }
    }

    [Fact]
    public void Every_command_is_registered()
    {
        var commands = typeof(Machine).Assembly.GetTypes().Where(type => type.IsValueType && !type.IsGenericType
            && type.GetInterfaces().Any(face => face.IsGenericType
                && face.GetGenericTypeDefinition() == typeof(ICommand<,>))).ToList();
        Assert.Equal(CommandTable.Kinds.Count(), commands.Count);
        Assert.All(CommandTable.Kinds, kind => Assert.NotNull(CommandTable.NameOf(kind)));
    }

    [Theory]
    [InlineData(new byte[] { 1, 2, 3, 4, 5, 6, 7, 8 }, "no log of a machine")]
    [InlineData(new byte[] { 0x46, 0x50, 0x4c, 0x47, 9, 0, 0, 0, 0, 0 }, "version 9")]
    public void Other_bytes_and_other_versions_are_refused_by_name(byte[] bytes, string reason)
    {
        var refusal = Assert.Throws<InvalidDataException>(() => new MachineReplay("replay", bytes));
        Assert.Contains(reason, refusal.Message, StringComparison.Ordinal);
    }

    internal static string DigestOf(MemoryStream log)
    {
        var replay = new MachineReplay("replay", log.ToArray());
        using var machine = replay.Machine;
        replay.RunToEnd();
        Assert.Empty(machine.Audit());
        return machine.Digest();
    }
}
