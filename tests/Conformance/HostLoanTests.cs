using System.Diagnostics;
using FramePin.Conformance.Kernel;
using Xunit;

namespace FramePin.Tests.Conformance;

/// <summary>
/// What a run borrows of the host is given back: by its end, and by the next run when it was killed (H6, H7). Plain
/// files stand for settings.
/// </summary>
public sealed class HostLoanTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("framepin-loan-").FullName;
    private readonly string _setting;

    public HostLoanTests()
    {
        _setting = Path.Combine(_folder, "nr_hugepages");
        File.WriteAllText(_setting, "20\n");
    }

    private string State => Path.Combine(_folder, "state");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void An_end_gives_every_setting_and_folder_back()
    {
        var made = Directory.CreateDirectory(Path.Combine(_folder, "made")).FullName;
        using (var loan = HostLoan.Take(_folder))
        {
            loan.Set(_setting, "28");
            loan.Set(_setting, "30");
            loan.AddFolder(made);
            Assert.Equal("30", File.ReadAllText(_setting));
            Assert.True(File.Exists(State));
        }

        Assert.Equal("20", File.ReadAllText(_setting));
        Assert.False(Directory.Exists(made));
        Assert.False(File.Exists(State));
    }

    /// <summary>H7: a run that was killed left its state; the next one makes it good before it takes its own.</summary>
    [Fact]
    public void The_next_run_makes_good_what_a_killed_one_left()
    {
        string left;
        using (var killed = HostLoan.Take(_folder))
        {
            killed.Set(_setting, "28");
            left = File.ReadAllText(State);
        }

        File.WriteAllText(State, left);
        File.WriteAllText(_setting, "28");
        using (var next = HostLoan.Take(_folder))
        {
            Assert.Equal("20", File.ReadAllText(_setting));
            Assert.False(File.Exists(State));
            next.Set(_setting, "29");
        }

        Assert.Equal("20", File.ReadAllText(_setting));
    }

    [Fact]
    public void What_an_earlier_boot_left_is_gone_with_it()
    {
        File.WriteAllLines(State, ["boot\tanother\t", $"setting\t{_setting}\t3"]);
        using (HostLoan.Take(_folder)) Assert.Equal("20\n", File.ReadAllText(_setting));
        Assert.False(File.Exists(State));
    }

    /// <summary>A setting that cannot be given back now is tried again by the next run.</summary>
    [Fact]
    public void What_cannot_be_given_back_stays_in_the_state()
    {
        using (var loan = HostLoan.Take(_folder))
        {
            loan.Set(_setting, "28");
            File.Delete(_setting);
            Directory.CreateDirectory(_setting);
        }

        Assert.Contains(_setting, File.ReadAllText(State), StringComparison.Ordinal);
        Directory.Delete(_setting);
        File.WriteAllText(_setting, "28");
        using (HostLoan.Take(_folder)) Assert.Equal("20", File.ReadAllText(_setting));
    }

    /// <summary>H6: two processes do not have the loan at once; the second one names the first.</summary>
    [Fact]
    public async Task A_second_process_is_refused_with_the_number_of_the_first()
    {
        using (HostLoan.Take(_folder))
        {
            // The files are there, and another process takes the lock when this one has gone.
        }

        var start = new ProcessStartInfo("flock", [Path.Combine(_folder, "lock"), "sh", "-c", "echo held; cat"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        using var holder = Process.Start(start)!;
        Assert.Equal("held", await holder.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken));
        var refused = Assert.Throws<HostUnsuitableException>(() => HostLoan.Take(_folder));
        Assert.Contains($"(process {holder.Id})", refused.Message, StringComparison.Ordinal);
        // A run of an ordinary user does not begin beside it either.
        var unlent = Assert.Throws<HostUnsuitableException>(() => HostLoan.KeepOthersFrom(_folder));
        Assert.Contains($"(process {holder.Id})", unlent.Message, StringComparison.Ordinal);
        holder.StandardInput.Close();
        await holder.WaitForExitAsync(TestContext.Current.CancellationToken);
        HostLoan.Take(_folder).Dispose();
    }

    /// <summary>H6: a run of an ordinary user keeps root's from the loan, and is named; two of them may run.</summary>
    [Fact]
    public void An_ordinary_users_run_keeps_the_loan_from_being_taken()
    {
        Assert.Null(HostLoan.KeepOthersFrom(_folder));
        using (HostLoan.Take(_folder))
        {
            // The lock's file is there from now on.
        }

        using (HostLoan.KeepOthersFrom(_folder))
        using (HostLoan.KeepOthersFrom(_folder))
        {
            var refused = Assert.Throws<HostUnsuitableException>(() => HostLoan.Take(_folder));
            Assert.Contains($"(process {Environment.ProcessId})", refused.Message, StringComparison.Ordinal);
        }

        HostLoan.Take(_folder).Dispose();
    }

    /// <summary>A state with a line that names no file keeps no run from its loan, and the other lines are made good.
    /// </summary>
    [Fact]
    public void A_damaged_state_is_made_good_as_far_as_it_goes()
    {
        string boot;
        using (var loan = HostLoan.Take(_folder))
        {
            loan.Set(_setting, "28");
            boot = File.ReadAllLines(State)[0];
        }

        File.WriteAllText(_setting, "28");
        File.WriteAllLines(State, [boot, $"setting\t{_setting}\t20", "setting\t\t3", "half a li"]);
        using (HostLoan.Take(_folder)) Assert.Equal("20", File.ReadAllText(_setting));
        HostLoan.Take(_folder).Dispose();
    }

    /// <summary>A loan whose end fails lets the lock go all the same.</summary>
    [Fact]
    public void A_loan_whose_end_fails_is_not_kept()
    {
        var loan = HostLoan.Take(_folder);
        loan.Set(_setting, "28");
        File.Delete(State);
        Directory.CreateDirectory(State);
        Assert.ThrowsAny<Exception>(loan.Dispose);
        Directory.Delete(State);
        HostLoan.Take(_folder).Dispose();
    }

    /// <summary>Settings that are not modelled are named with their value and their effect.</summary>
    [Fact]
    public void Settings_of_this_host_are_named_in_sentences()
    {
        var notes = HostSettings.NotModelled(
            _folder, file => file.EndsWith("max_map_count", StringComparison.Ordinal) ? "7" : null);
        Assert.Contains("/proc/sys/vm/max_map_count is 7: mappings are refused by their number", notes);
        notes = HostSettings.NotModelled(_folder);
        Assert.All(notes, note => Assert.Matches(@"^\S.* .*(is|have) .+: .+$", note));
        foreach (var note in notes) TestContext.Current.TestOutputHelper?.WriteLine(note);
    }
}
